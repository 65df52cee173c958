// toml++ is made of templates: this is the one place that sees it. Nothing is thrown across the border.
#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "CTOML.h"

namespace {

using Path = std::vector<const char *>;

const char *text(std::string_view view, std::vector<std::unique_ptr<std::string>> &strings) {
    strings.push_back(std::make_unique<std::string>(view));
    return strings.back()->c_str();
}

} // namespace

struct toml_document {
    std::vector<toml_entry> entries;
    std::vector<std::unique_ptr<std::string>> strings;

    void add(const toml::node &node, const Path &path, uint32_t line, bool is_element);
    void add_members(const toml::table &table, Path &path);
};

void toml_document::add_members(const toml::table &table, Path &path) {
    for (auto &&[key, node] : table) {
        path.push_back(text(key.str(), strings));
        add(node, path, key.source().begin.line, false);
        if (auto inner = node.as_table()) add_members(*inner, path);
        path.pop_back();
    }
}

void toml_document::add(const toml::node &node, const Path &path, uint32_t line, bool is_element) {
    toml_entry entry = {};
    std::copy_n(path.begin(), std::min<size_t>(path.size(), TOML_DEPTH_MAXIMUM), entry.keys);
    entry.depth = static_cast<uint32_t>(path.size());
    entry.line = line;
    entry.is_element = is_element;
    entry.kind = TOML_OTHER;
    if (node.is_table()) {
        entry.kind = TOML_TABLE;
    } else if (auto string = node.value_exact<std::string_view>()) {
        entry.kind = TOML_STRING;
        entry.string = text(*string, strings);
    } else if (auto integer = node.value_exact<int64_t>()) {
        entry.kind = TOML_INTEGER;
        entry.integer = *integer;
    } else if (auto boolean = node.value_exact<bool>()) {
        entry.kind = TOML_BOOLEAN;
        entry.integer = *boolean;
    } else if (node.is_array()) {
        entry.kind = TOML_ARRAY;
    }
    entries.push_back(entry);
    if (auto array = node.as_array()) {
        for (auto &&element : *array) add(element, path, element.source().begin.line, true);
    }
}

toml_document *toml_read(const char *text, size_t count, char *why, size_t why_size, uint32_t *line) {
    toml::parse_result result = toml::parse(std::string_view(text, count));
    if (!result) {
        const toml::parse_error &error = result.error();
        std::string_view words = error.description();
        size_t length = why_size ? std::min(words.size(), why_size - 1) : 0;
        std::memcpy(why, words.data(), length);
        if (why_size) why[length] = 0;
        *line = error.source().begin.line;
        return nullptr;
    }
    auto document = std::make_unique<toml_document>();
    Path path;
    document->add_members(result.table(), path);
    std::stable_sort(document->entries.begin(), document->entries.end(),
                     [](const toml_entry &a, const toml_entry &b) { return a.line < b.line; });
    return document.release();
}

void toml_close(toml_document *document) { delete document; }

size_t toml_count(const toml_document *document) { return document->entries.size(); }

toml_entry toml_at(const toml_document *document, size_t index) { return document->entries[index]; }

// libFuzzer notes the operands of every comparison, to guess magic numbers from them. That takes four fifths of the time here: a
// long run begins where short ones have guessed, and goes without (`--wrap` in Tests/Fuzz/run).

@_cdecl("__wrap___sanitizer_cov_trace_cmp1") public func forgetCompare(_ left: UInt8, _ right: UInt8) {}
@_cdecl("__wrap___sanitizer_cov_trace_cmp4") public func forgetCompare(_ left: UInt32, _ right: UInt32) {}
@_cdecl("__wrap___sanitizer_cov_trace_cmp8") public func forgetCompare(_ left: UInt64, _ right: UInt64) {}
@_cdecl("__wrap___sanitizer_cov_trace_const_cmp1") public func forgetCompareWithConstant(_ left: UInt8, _ right: UInt8) {}
@_cdecl("__wrap___sanitizer_cov_trace_const_cmp4") public func forgetCompareWithConstant(_ left: UInt32, _ right: UInt32) {}
@_cdecl("__wrap___sanitizer_cov_trace_const_cmp8") public func forgetCompareWithConstant(_ left: UInt64, _ right: UInt64) {}

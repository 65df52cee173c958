#include "CSlab.h"

// Which levels this processor can run.
#pragma once
#include "kernels.h"

namespace recfx {
const Level* find_level(const char* name);  // nullptr: unknown, or this processor cannot run it
}

#include "report.h"

#include <cstdarg>
#include <cstdio>

namespace sim {

const char* NameOf(Cause cause) {
    switch (cause) {
        case Cause::kArgument:
            return "argument";
        case Cause::kBounds:
            return "bounds";
        case Cause::kFault:
            return "fault";
        case Cause::kUnifiedBuffer:
            return "unified-buffer";
        case Cause::kQueue:
            return "queue";
        case Cause::kPoison:
            return "poison";
        case Cause::kRace:
            return "race";
        case Cause::kOverlap:
            return "overlap";
        case Cause::kFlag:
            return "flag";
        case Cause::kHang:
            return "hang";
        case Cause::kUnsupported:
            return "unsupported";
    }
    return "unknown";
}

std::string Format(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    va_list again;
    va_copy(again, arguments);
    const int length = std::vsnprintf(nullptr, 0, format, arguments);
    va_end(arguments);
    std::string text(static_cast<size_t>(length < 0 ? 0 : length), '\0');
    std::vsnprintf(text.data(), text.size() + 1, format, again);
    va_end(again);
    return text;
}

}  // namespace sim

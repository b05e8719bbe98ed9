// A condition that must hold in a fuzz target, whatever the input.
#ifndef TESTS_FUZZ_CPP_REQUIRE_H_
#define TESTS_FUZZ_CPP_REQUIRE_H_

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace fuzz {

// Ends the process, which libFuzzer reports with the input, unless `holds`; the message is that of printf.
__attribute__((format(printf, 2, 3))) inline void Require(bool holds, const char* format, ...) {
    if (holds) {
        return;
    }
    std::va_list arguments;
    va_start(arguments, format);
    std::fputs("WRONG: ", stderr);
    std::vfprintf(stderr, format, arguments);
    std::fputs("\n", stderr);
    va_end(arguments);
    std::abort();
}

}  // namespace fuzz

#endif  // TESTS_FUZZ_CPP_REQUIRE_H_

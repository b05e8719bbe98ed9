// The toolkit's log.
// Models: hicann/runtime pkg_inc/base/dlog_pub.h. Lines go nowhere unless ASCEND_SLOG_PRINT_TO_STDOUT=1, then to
// stdout.
#ifndef BASE_DLOG_PUB_H_
#define BASE_DLOG_PUB_H_

enum { OP = 63 };  // the module that operators log as

// Weak: null unless a loaded library has it.
extern "C" void DlogRecord(int moduleId, int level, const char* fmt, ...) __attribute__((weak, format(printf, 3, 4)));

#define DLOG_ERROR 3
#define dlog_error(moduleId, fmt, ...) \
    DlogRecord((moduleId), DLOG_ERROR, "[%s:%d]" fmt, __FILE__, __LINE__, ##__VA_ARGS__)

#endif  // BASE_DLOG_PUB_H_

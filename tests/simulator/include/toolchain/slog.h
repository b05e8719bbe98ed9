// The toolkit's log.
// Models: hicann/runtime pkg_inc/base/dlog_pub.h. Lines go nowhere unless ASCEND_SLOG_PRINT_TO_STDOUT=1, then to
// stdout.
#ifndef TOOLCHAIN_SLOG_H_
#define TOOLCHAIN_SLOG_H_

enum { OP = 63 };  // the module that operators log as

extern "C" void DlogRecord(int moduleId, int level, const char* fmt, ...) __attribute__((format(printf, 3, 4)));

#define DLOG_ERROR 3
#define dlog_error(moduleId, fmt, ...) \
    DlogRecord((moduleId), DLOG_ERROR, "[%s:%d]" fmt, __FILE__, __LINE__, ##__VA_ARGS__)

#endif  // TOOLCHAIN_SLOG_H_

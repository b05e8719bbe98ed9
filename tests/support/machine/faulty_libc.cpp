// Functions of the C library that fail on demand, preloaded into a process (LD_PRELOAD): faulty_libc.py drives them.
//
// The variable FAULTY_LIBC names a file with two numbers of 64 bits, which is mapped: the nanoseconds by which the wall
// clock is wrong, and whether no thread can be started. Monotonic clocks stay right, as when somebody sets the time.
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <ctime>

namespace {

struct State {
    volatile int64_t wrong_ns;
    volatile int64_t no_threads;
};

constexpr int64_t kSecondNs = 1000000000;
State g_right = {0, 0};

State* TheState() {
    static State* const state = [] {
        const char* const path = std::getenv("FAULTY_LIBC");
        const int file = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0) {
            return &g_right;
        }
        void* const mapped = mmap(nullptr, sizeof(State), PROT_READ, MAP_SHARED, file, 0);
        close(file);
        return mapped == MAP_FAILED ? &g_right : static_cast<State*>(mapped);
    }();
    return state;
}

template <typename Function>
Function* Next(const char* name) {
    return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

void Shift(timespec* time) {
    const int64_t ns = time->tv_sec * kSecondNs + time->tv_nsec + TheState()->wrong_ns;
    time->tv_sec = ns / kSecondNs;
    time->tv_nsec = ns % kSecondNs;
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* time) noexcept {
    static auto* const next = Next<int(clockid_t, timespec*)>("clock_gettime");
    const int result = next(clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        Shift(time);
    }
    return result;
}

int gettimeofday(timeval* time, void*) noexcept {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t* out) noexcept {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != nullptr) {
        *out = now.tv_sec;
    }
    return now.tv_sec;
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                   void* argument) noexcept {
    static auto* const next = Next<int(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*)>("pthread_create");
    return TheState()->no_threads != 0 ? EAGAIN : next(thread, attributes, start, argument);
}

}  // extern "C"

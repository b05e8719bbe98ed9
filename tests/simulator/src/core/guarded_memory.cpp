#include "guarded_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <csetjmp>
#include <csignal>
#include <cstring>
#include <mutex>

namespace sim {
namespace {

size_t PageBytes() {
    static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return bytes;
}

size_t RoundUp(size_t bytes, size_t to) {
    const size_t step = to == kPageAlignment ? PageBytes() : to;
    return (bytes + step - 1) / step * step;
}

struct Recovery {
    sigjmp_buf point;
    volatile sig_atomic_t armed = 0;
    void* volatile address = nullptr;
    const char* (*describe)() = nullptr;
};

thread_local Recovery t_recovery;

struct sigaction g_previous_segv;
struct sigaction g_previous_bus;

void WriteText(const char* text) {
    // Nothing can be done about a failing write to stderr in a signal handler of a process that is about to end.
    if (write(STDERR_FILENO, text, std::strlen(text)) < 0) {
        return;
    }
}

void OnFault(int signal, siginfo_t* info, void*) {
    Recovery& recovery = t_recovery;
    if (recovery.armed) {
        recovery.armed = 0;
        recovery.address = info->si_addr;
        siglongjmp(recovery.point, 1);
    }
    if (recovery.describe != nullptr) {
        WriteText("ascend simulator: the kernel's own code touched memory that is not there: ");
        WriteText(recovery.describe());
        WriteText("\n");
    }
    // Restore the previous handler: the instruction runs again and ends the process as it would have without this one.
    sigaction(signal, signal == SIGSEGV ? &g_previous_segv : &g_previous_bus, nullptr);
}

void InstallHandler() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = OnFault;
        action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        sigaction(SIGSEGV, &action, &g_previous_segv);
        sigaction(SIGBUS, &action, &g_previous_bus);
    });
}

}  // namespace

void* AllocateGuarded(size_t bytes, size_t alignment) {
    const size_t page = PageBytes();
    const size_t room = RoundUp(bytes, page);
    void* const mapped = mmap(nullptr, room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) {
        return nullptr;
    }
    unsigned char* const first = static_cast<unsigned char*>(mapped) + page;
    if (mprotect(first, room, PROT_READ | PROT_WRITE) != 0) {
        munmap(mapped, room + 2 * page);
        return nullptr;
    }
    return first + room - RoundUp(bytes, alignment);
}

void FreeGuarded(void* memory, size_t bytes, size_t alignment) {
    const size_t page = PageBytes();
    const size_t room = RoundUp(bytes, page);
    unsigned char* const first = static_cast<unsigned char*>(memory) + RoundUp(bytes, alignment) - room;
    munmap(first - page, room + 2 * page);
}

bool CopyOrFault(void* destination, const void* source, size_t bytes, uint64_t* fault_address) {
    // memcpy must not get a null pointer, although the processor would fault there as well.
    if (destination == nullptr || source == nullptr) {
        *fault_address = 0;
        return false;
    }
    InstallHandler();
    Recovery& recovery = t_recovery;
    if (sigsetjmp(recovery.point, 0) != 0) {
        *fault_address = reinterpret_cast<uint64_t>(recovery.address);
        return false;
    }
    recovery.armed = 1;
    std::memcpy(destination, source, bytes);
    recovery.armed = 0;
    return true;
}

void DescribeThread(const char* (*describe)()) {
    InstallHandler();
    t_recovery.describe = describe;
}

}  // namespace sim

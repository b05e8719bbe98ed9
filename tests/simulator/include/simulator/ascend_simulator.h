// The simulator's own C functions, exported by libascendcl.so beside those of ACL: settings, faults on demand,
// accounts, launches without an operator around the kernel, and what the last launch did. Thread-safe.
#ifndef SIMULATOR_ASCEND_SIMULATOR_H_
#define SIMULATOR_ASCEND_SIMULATOR_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Changes a setting of what starts later; src/core/settings.h has those of launches, src/acl/options.h those of
// devices, memory and time. Returns 0, or 1 where `value` is not allowed: AscendSimulatorText then says what is.
int32_t AscendSimulatorSet(const char* name, const char* value);

// Makes calls fail; src/acl/faults.h says how `faults` are written. Returns 0, or 1 where that is not understood:
// AscendSimulatorText then says why.
int32_t AscendSimulatorAddFaults(const char* faults);

// Calls go well again, those that hang return, and dead devices live.
void AscendSimulatorClearFaults();

// Returns how often `function` of ACL or of the operator API was called in this process.
uint64_t AscendSimulatorCalls(const char* function);

// Returns what lives, what was done that a device would not forgive, virtual time and the counts of calls as JSON: see
// src/acl/accounts.h. The text is the thread's until its next call of this function. The variable
// ASCEND_SIMULATOR_ACCOUNTS names a file to which aclFinalize adds it as a line.
const char* AscendSimulatorAccounts();

// Begins to count virtual time anew.
void AscendSimulatorRestartTime();

struct AscendSimulatorTensor {
    const char* name;
    void* address;
    uint64_t bytes;
};

// Runs `kernel`, a function of the tensors' addresses, a workspace and tiling data, on `blocks` blocks.
// Returns 0, or 1 where the launch ended with an error: AscendSimulatorText then is its report, after "<cause>: ". The
// causes are argument, bounds, fault, unified-buffer, queue, poison, race, overlap, flag, hang and unsupported;
// src/core/report.h says what each means.
int32_t AscendSimulatorLaunch(const char* name, void (*kernel)(), int64_t blocks,
                              const struct AscendSimulatorTensor* tensors, uint32_t tensor_count, const void* tiling,
                              uint64_t tiling_bytes, uint64_t tiling_key);

// Returns counters and cost estimate of the launch that ended last in this process as JSON.
// The text is the thread's until its next call of this function.
const char* AscendSimulatorLastLaunch();

// Runs one vector call on host memory: the numbers are those of sim::VectorOp, sim::Element and AscendC::RoundMode.
// Returns 0, or 1 where there is no such instruction: AscendSimulatorText then says what there is.
int32_t AscendSimulatorVector(uint32_t op, uint32_t dst_element, uint32_t src_element, int32_t round_mode, void* dst,
                              const void* src0, const void* src1, uint64_t scalar, int64_t count);

// Returns guarded memory: `bytes` that begin right behind (at_end 0) or end right before (at_end 1) a page that nobody
// may touch; null where there is none. `bytes` > 0.
void* AscendSimulatorAllocate(uint64_t bytes, int32_t at_end);
void AscendSimulatorFree(void* memory, uint64_t bytes, int32_t at_end);

// Returns how many allocations of aclrtMalloc and aclrtMallocHost live.
uint64_t AscendSimulatorLiveAllocations();

// Returns the text of the last call of this thread that failed.
const char* AscendSimulatorText();

#ifdef __cplusplus
}
#endif

#endif  // SIMULATOR_ASCEND_SIMULATOR_H_

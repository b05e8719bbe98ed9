// The simulator's own C functions, exported by libacl_rt.so beside those of ACL: settings, injected faults, accounts,
// launches without an operator around the kernel, and the result of the last launch. Thread-safe.
#ifndef SIMULATOR_ASCEND_SIMULATOR_H_
#define SIMULATOR_ASCEND_SIMULATOR_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Changes a setting for later calls. src/core/settings.h lists those of launches, src/acl/options.h those of devices,
// memory and time. Returns 0; or 1 if `value` is not allowed, and AscendSimulatorText then says what is.
int32_t AscendSimulatorSet(const char* name, const char* value);

// Makes calls fail; src/acl/faults.h has the syntax of `faults`. Returns 0; or 1 if they have an error, and
// AscendSimulatorText then has the reason.
int32_t AscendSimulatorAddFaults(const char* faults);

// Removes all faults: hung calls return, and dead devices work again.
void AscendSimulatorClearFaults();

// Returns the number of calls of `function`, of ACL or of the operator API, in this process.
uint64_t AscendSimulatorCalls(const char* function);

// Returns live resources, violations, virtual time and the counts of calls as JSON (src/acl/accounts.h). The text is
// valid until the thread's next call of this function. If the variable ASCEND_SIMULATOR_ACCOUNTS names a file,
// aclFinalize appends the JSON to it as a line.
const char* AscendSimulatorAccounts();

// Resets the virtual time.
void AscendSimulatorRestartTime();

struct AscendSimulatorTensor {
    const char* name;
    void* address;
    uint64_t bytes;
};

// Runs `kernel`, a function of the tensors' addresses, a workspace and tiling data, on `blocks` blocks.
// Returns 0; or 1 if the launch ended with an error, and AscendSimulatorText is then its report, after "<cause>: ". The
// causes are argument, bounds, fault, unified-buffer, queue, poison, race, overlap, flag, hang and unsupported;
// src/core/report.h explains each.
int32_t AscendSimulatorLaunch(const char* name, void (*kernel)(), int64_t blocks,
                              const struct AscendSimulatorTensor* tensors, uint32_t tensor_count, const void* tiling,
                              uint64_t tiling_bytes, uint64_t tiling_key);

// Returns counters and cost estimate of the launch that ended last in this process, as JSON. The text is valid until
// the thread's next call of this function.
const char* AscendSimulatorLastLaunch();

// Runs one vector call on host memory: the numbers are those of sim::VectorOp, sim::Element and AscendC::RoundMode.
// Returns 0; or 1 if there is no such instruction, and AscendSimulatorText then names the supported ones.
int32_t AscendSimulatorVector(uint32_t op, uint32_t dst_element, uint32_t src_element, int32_t round_mode, void* dst,
                              const void* src0, const void* src1, uint64_t scalar, int64_t count);

// Returns `bytes` of guarded memory, which begin right behind (at_end 0) or end right before (at_end 1) a guard page;
// null if memory ran out. `bytes` > 0.
void* AscendSimulatorAllocate(uint64_t bytes, int32_t at_end);
void AscendSimulatorFree(void* memory, uint64_t bytes, int32_t at_end);

// Returns the number of live allocations of aclrtMalloc and aclrtMallocHost.
uint64_t AscendSimulatorLiveAllocations();

// Returns the text of this thread's last call that failed.
const char* AscendSimulatorText();

#ifdef __cplusplus
}
#endif

#endif  // SIMULATOR_ASCEND_SIMULATOR_H_

#include "unified_buffer.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace sim {
namespace {

constexpr size_t kHostAlignment = 4096;

uint64_t FirstBlock(uint32_t address) { return address / kUbBlock; }
uint64_t EndBlock(uint32_t address, uint64_t bytes) { return (address + bytes + kUbBlock - 1) / kUbBlock; }

}  // namespace

void UnifiedBuffer::Free::operator()(unsigned char* bytes) const { std::free(bytes); }

void UnifiedBuffer::Resize(uint64_t bytes) {
    if (bytes <= size_) {
        return;
    }
    const size_t room = (bytes + kHostAlignment - 1) / kHostAlignment * kHostAlignment;
    unsigned char* const fresh = static_cast<unsigned char*>(std::aligned_alloc(kHostAlignment, room));
    if (fresh == nullptr) {
        throw std::bad_alloc();
    }
    bytes_.reset(fresh);
    size_ = bytes;
    const uint64_t blocks = EndBlock(0, bytes);
    poisoned_.assign(blocks, 1);
    for (int pipe = 0; pipe < kPipes; ++pipe) {
        writes_[pipe].assign(blocks, 0);
        reads_[pipe].assign(blocks, 0);
    }
}

void UnifiedBuffer::Reset(uint32_t address, uint32_t bytes) {
    std::memset(At(address), kPoisonByte, bytes);
    const uint64_t first = FirstBlock(address), end = EndBlock(address, bytes);
    std::fill(poisoned_.begin() + first, poisoned_.begin() + end, 1);
    for (int pipe = 0; pipe < kPipes; ++pipe) {
        std::fill(writes_[pipe].begin() + first, writes_[pipe].begin() + end, 0);
        std::fill(reads_[pipe].begin() + first, reads_[pipe].begin() + end, 0);
    }
}

void UnifiedBuffer::Poison(uint32_t address, uint32_t bytes, Pipe pipe, uint32_t number) {
    std::memset(At(address), kPoisonByte, bytes);
    NoteWrite(address, bytes, pipe, number);
    std::fill(poisoned_.begin() + FirstBlock(address), poisoned_.begin() + EndBlock(address, bytes), 1);
}

int64_t UnifiedBuffer::FindPoison(uint32_t address, uint64_t bytes) const {
    const uint64_t first = FirstBlock(address), end = EndBlock(address, bytes);
    const void* found = std::memchr(poisoned_.data() + first, 1, end - first);
    if (found == nullptr) {
        return -1;
    }
    return (static_cast<const unsigned char*>(found) - poisoned_.data()) * int64_t{kUbBlock};
}

UnifiedBuffer::Conflict UnifiedBuffer::CheckRead(uint32_t address, uint64_t bytes, const Clock& clock) const {
    Conflict conflict = Check(writes_, address, bytes, clock);
    conflict.was_write = true;
    return conflict;
}

UnifiedBuffer::Conflict UnifiedBuffer::CheckWrite(uint32_t address, uint64_t bytes, const Clock& clock) const {
    const Conflict conflict = CheckRead(address, bytes, clock);
    return conflict.found ? conflict : Check(reads_, address, bytes, clock);
}

UnifiedBuffer::Conflict UnifiedBuffer::Check(const std::vector<uint32_t>* numbers, uint32_t address, uint64_t bytes,
                                             const Clock& clock) const {
    const uint64_t first = FirstBlock(address), end = EndBlock(address, bytes);
    for (int pipe = 0; pipe < kPipes; ++pipe) {
        const uint32_t* const of_pipe = numbers[pipe].data();
        uint32_t latest = 0;
        for (uint64_t block = first; block < end; ++block) {  // a plain maximum, so that it vectorises
            latest = std::max(latest, of_pipe[block]);
        }
        if (latest > clock[pipe]) {
            const uint64_t block =
                std::find_if(of_pipe + first, of_pipe + end, [&](uint32_t number) { return number > clock[pipe]; }) -
                of_pipe;
            return {true, false, static_cast<Pipe>(pipe), of_pipe[block], static_cast<uint32_t>(block * kUbBlock)};
        }
    }
    return {};
}

void UnifiedBuffer::NoteRead(uint32_t address, uint64_t bytes, Pipe pipe, uint32_t number) {
    std::vector<uint32_t>& numbers = reads_[static_cast<int>(pipe)];
    std::fill(numbers.begin() + FirstBlock(address), numbers.begin() + EndBlock(address, bytes), number);
}

void UnifiedBuffer::NoteWrite(uint32_t address, uint64_t bytes, Pipe pipe, uint32_t number) {
    const uint64_t first = FirstBlock(address), end = EndBlock(address, bytes);
    std::vector<uint32_t>& numbers = writes_[static_cast<int>(pipe)];
    std::fill(numbers.begin() + first, numbers.begin() + end, number);
    std::fill(poisoned_.begin() + first, poisoned_.begin() + end, 0);
}

}  // namespace sim

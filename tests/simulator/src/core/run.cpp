// Execution of a call by its pipe.
#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "core.h"
#include "guarded_memory.h"

namespace sim {
namespace {

// In the order of the data flow, so that the text does not depend on the schedule.
std::string Unordered(Pipe one, Pipe other) {
    constexpr int kPlace[kPipes] = {3, 1, 0, 2};
    const bool turned = kPlace[static_cast<int>(one)] > kPlace[static_cast<int>(other)];
    return Format("no queue or flag makes one of %s and %s wait for the other", NameOf(turned ? other : one),
                  NameOf(turned ? one : other));
}

bool Overlap(const LocalRange& a, const LocalRange& b) {
    return a.address < b.address + b.bytes && b.address < a.address + a.bytes;
}

}  // namespace

void Core::Run(Pipe pipe, const Instruction& instruction) {
    switch (instruction.kind) {
        case Instruction::Kind::kCopyIn:
            RunCopyIn(instruction);
            break;
        case Instruction::Kind::kCopyOut:
            RunCopyOut(instruction);
            break;
        case Instruction::Kind::kVector:
            RunVector(instruction);
            break;
        case Instruction::Kind::kFree: {
            // A device has no such call, so S need not have told this pipe that it has finished reading.
            Clock clock = pipes_[static_cast<int>(pipe)].clock;
            clock[static_cast<int>(pipe)] = instruction.number;
            clock[0] = UINT32_MAX;
            const UnifiedBuffer::Conflict conflict =
                ub_.CheckWrite(instruction.dst.address, instruction.dst.bytes, clock);
            if (conflict.found && launch_->settings.check_order) {
                FailRace(conflict, true, instruction.dst);
            }
            ub_.Poison(instruction.dst.address, instruction.dst.bytes, pipe, instruction.number);
            break;
        }
        default:
            break;
    }
}

void Core::RunCopyIn(const Instruction& instruction) {
    const CopyShape& shape = instruction.shape;
    const uint64_t run = shape.left_pad_bytes + shape.block_bytes + shape.right_pad_bytes;
    const uint64_t padded = (run + kUbBlock - 1) / kUbBlock * kUbBlock;
    LocalRange destination = instruction.dst;
    uint64_t gm = instruction.gm;
    for (uint64_t block = 0; block < shape.blocks; ++block) {
        CheckWrite(Pipe::kMte2, destination, padded);
        unsigned char* const at = ub_.At(destination.address);
        GuardedCopy(at + shape.left_pad_bytes, reinterpret_cast<const void*>(gm), shape.block_bytes);
        std::memset(at, kPoisonByte, shape.left_pad_bytes);
        unsigned char* const tail = at + shape.left_pad_bytes + shape.block_bytes;
        std::memset(tail, kPoisonByte, static_cast<size_t>(at + padded - tail));
        if (shape.pad_value_given) {
            const uint32_t bytes = instruction.element_bytes;
            const auto fill = [&](unsigned char* begin, uint32_t length) {
                for (uint32_t offset = 0; offset + bytes <= length; offset += bytes) {
                    std::memcpy(begin + offset, &shape.pad_value, bytes);
                }
            };
            fill(at, shape.left_pad_bytes);
            fill(tail, static_cast<uint32_t>(at + padded - tail));
        }
        ub_.NoteWrite(destination.address, padded, Pipe::kMte2, instruction.number);
        traffic_.reads.Add(gm, gm + shape.block_bytes, instruction.number);
        destination.address += static_cast<uint32_t>(padded + shape.ub_gap_bytes);
        gm += shape.block_bytes + shape.gm_gap_bytes;
    }
}

void Core::RunCopyOut(const Instruction& instruction) {
    const CopyShape& shape = instruction.shape;
    const uint64_t padded = (shape.block_bytes + kUbBlock - 1) / kUbBlock * kUbBlock;
    LocalRange source = instruction.src0;
    uint64_t gm = instruction.gm;
    const Clock& clock = pipes_[static_cast<int>(Pipe::kMte3)].clock;
    for (uint64_t block = 0; block < shape.blocks; ++block) {
        CheckRead(Pipe::kMte3, source, shape.block_bytes);
        if (launch_->settings.check_order) {
            const uint32_t earlier = traffic_.writes.Latest(gm, gm + shape.block_bytes);
            if (earlier > clock[static_cast<int>(Pipe::kMte3)]) {
                Fail(Cause::kRace,
                     Format("writes what call %u (%s) of the same pipe writes, %s, and no PipeBarrier<PIPE_MTE3> lies "
                            "between them",
                            earlier, NameOfCall(Pipe::kMte3, earlier), DescribeGlobal(launch_->tensors, gm).c_str()));
            }
        }
        GuardedCopy(reinterpret_cast<void*>(gm), ub_.At(source.address), shape.block_bytes);
        ub_.NoteRead(source.address, shape.block_bytes, Pipe::kMte3, instruction.number);
        traffic_.writes.Add(gm, gm + shape.block_bytes, instruction.number);
        source.address += static_cast<uint32_t>(padded + shape.ub_gap_bytes);
        gm += shape.block_bytes + shape.gm_gap_bytes;
    }
}

void Core::RunVector(const Instruction& instruction) {
    if (instruction.count == 0) {
        return;
    }
    const LocalRange* const sources[] = {&instruction.src0, &instruction.src1};
    for (int i = 0; i < instruction.sources; ++i) {
        CheckRead(Pipe::kVector, *sources[i], instruction.src_bytes);
    }
    CheckWrite(Pipe::kVector, instruction.dst, instruction.dst_bytes);
    VectorOperands operands{};
    operands.dst = ub_.At(instruction.dst.address);
    operands.src0 = ub_.At(instruction.src0.address);
    operands.src1 = ub_.At(instruction.src1.address);
    operands.scalar = instruction.scalar;
    operands.count = instruction.count;
    operands.round_mode = instruction.round_mode;
    instruction.loop(operands);
    if (launch_->settings.saturates) {
        Saturate(instruction.dst_element, operands.dst, operands.count);
    }
    for (int i = 0; i < instruction.sources; ++i) {
        ub_.NoteRead(sources[i]->address, instruction.src_bytes, Pipe::kVector, instruction.number);
    }
    ub_.NoteWrite(instruction.dst.address, instruction.dst_bytes, Pipe::kVector, instruction.number);
}

void Core::CheckRead(Pipe pipe, const LocalRange& range, uint64_t bytes) {
    if (launch_->settings.check_order) {
        const UnifiedBuffer::Conflict conflict =
            ub_.CheckRead(range.address, bytes, pipes_[static_cast<int>(pipe)].clock);
        if (conflict.found) {
            FailRace(conflict, false, range);
        }
    }
    if (launch_->settings.check_poison) {
        const int64_t poison = ub_.FindPoison(range.address, bytes);
        if (poison >= 0) {
            FailPoison(range, bytes, poison);
        }
    }
}

void Core::CheckWrite(Pipe pipe, const LocalRange& range, uint64_t bytes) {
    if (launch_->settings.check_order) {
        const UnifiedBuffer::Conflict conflict =
            ub_.CheckWrite(range.address, bytes, pipes_[static_cast<int>(pipe)].clock);
        if (conflict.found) {
            FailRace(conflict, true, range);
        }
    }
}

void Core::FailRace(const UnifiedBuffer::Conflict& conflict, bool write, const LocalRange& range) const {
    const std::string other = Format("call %u (%s) of pipe %s", conflict.number,
                                     NameOfCall(conflict.pipe, conflict.number), NameOf(conflict.pipe));
    const bool same = conflict.pipe == current_.pipe;
    Fail(Cause::kRace,
         Format("%s %s, byte %u of UB, which %s %s, and %s", write ? "writes" : "reads", DescribeUb(range).c_str(),
                conflict.address, other.c_str(), conflict.was_write ? "writes" : "reads",
                same ? Format("no PipeBarrier<PIPE_%s> lies between them", NameOf(current_.pipe)).c_str()
                     : Unordered(conflict.pipe, current_.pipe).c_str()));
}

void Core::FailPoison(const LocalRange& range, uint64_t bytes, int64_t poison) const {
    // The write has not run yet in this schedule: then the order is missing, not the write.
    const LocalRange read = {range.address, static_cast<uint32_t>(bytes), range.buffer};
    for (int pipe = 1; pipe < kPipes; ++pipe) {
        const PipeQueue& queue = pipes_[pipe];
        for (size_t i = queue.next; i < queue.waiting.size(); ++i) {
            const Instruction& waiting = queue.waiting[i];
            const bool writes =
                waiting.kind == Instruction::Kind::kCopyIn || waiting.kind == Instruction::Kind::kVector;
            const LocalRange written = {waiting.dst.address, static_cast<uint32_t>(waiting.dst_bytes),
                                        waiting.dst.buffer};
            if (writes && waiting.order < current_.order && Overlap(read, written)) {
                Fail(Cause::kRace, Format("reads %s, byte %" PRId64 " of UB, which call %u (%s) of pipe %s is still to "
                                          "write, and %s",
                                          DescribeUb(range).c_str(), poison, waiting.number, waiting.name,
                                          NameOf(static_cast<Pipe>(pipe)),
                                          Unordered(static_cast<Pipe>(pipe), current_.pipe).c_str()));
            }
        }
    }
    Fail(Cause::kPoison, Format("reads bytes %u to %" PRIu64 " of UB, %s, of which those from %" PRId64
                                " on hold poison: nobody wrote them since InitBuffer or FreeTensor",
                                range.address, range.address + bytes, DescribeUb(range).c_str(), poison));
}

void Core::GuardedCopy(void* destination, const void* source, uint64_t bytes) {
    uint64_t fault = 0;
    if (!CopyOrFault(destination, source, bytes, &fault)) {
        Fail(Cause::kFault, Format("touched a guard page: %s", DescribeGlobal(launch_->tensors, fault).c_str()));
    }
}

std::string Core::DescribeUb(const LocalRange& range) const {
    const Buffer& buffer = buffers_[range.buffer];
    if (buffer.queue < 0) {
        return Format("a TBuf of %u bytes", buffer.range.bytes);
    }
    return Format("buffer %d of %s", range.buffer - queues_[buffer.queue].first_buffer,
                  Describe(queues_[buffer.queue]).c_str());
}

const char* Core::NameOfCall(Pipe pipe, uint32_t number) const {
    const PipeQueue& queue = pipes_[static_cast<int>(pipe)];
    return queue.issued - number < kNames && queue.names[number % kNames] != nullptr ? queue.names[number % kNames]
                                                                                     : "long past";
}

}  // namespace sim

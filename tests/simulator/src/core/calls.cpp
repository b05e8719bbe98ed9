// Calls of a kernel: checks of their arguments, and the instruction that each puts in the queue of its pipe.
// Source of every limit: the document that the stand-in header names beside the call.
#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "core.h"
#include "cost.h"

namespace sim {
namespace {

constexpr uint64_t kMostCopyBlocks = 4095;
constexpr uint64_t kMostPadBlockBytes = 2097151;
constexpr uint64_t kMostPaddingBytes = 32;
constexpr uint64_t kRepeatBytes = 256;  // of one iteration of the vector unit
constexpr uint64_t kGmLineBytes = 512;  // GM地址尽量512B对齐.md

}  // namespace

LocalRange Core::Offset(const LocalRange& tensor, uint64_t offset_bytes) {
    current_ = {Pipe::kScalar, 0, "LocalTensor::operator[]", 0};
    return PartOf(tensor, offset_bytes);
}

LocalRange Core::PartOf(const LocalRange& tensor, uint64_t offset_bytes) const {
    if (offset_bytes > tensor.bytes) {
        Fail(Cause::kBounds, Format("a tensor of %u bytes from byte %" PRIu64 " on", tensor.bytes, offset_bytes));
    }
    LocalRange part = tensor;
    part.address += static_cast<uint32_t>(offset_bytes);
    part.bytes -= static_cast<uint32_t>(offset_bytes);
    return part;
}

void Core::CheckLocal(const LocalRange& range, uint64_t bytes, const char* operand) const {
    if (range.buffer < 0) {
        Fail(Cause::kBounds, Format("%s is a tensor without a buffer", operand));
    }
    if (bytes > range.bytes) {
        Fail(Cause::kBounds, Format("%s has %u bytes left in %s, the call takes %" PRIu64, operand, range.bytes,
                                    DescribeUb(range).c_str(), bytes));
    }
}

void Core::CheckAligned(const LocalRange& range, const char* operand) const {
    if (range.address % kUbBlock != 0) {
        Fail(Cause::kArgument,
             Format("%s begins at byte %u of UB, which is no multiple of %u", operand, range.address, kUbBlock));
    }
}

void Core::CheckCopyShape(const CopyCall& call, bool in) const {
    const CopyShape& shape = call.shape;
    const bool pad = std::strcmp(call.name, "DataCopyPad") == 0;
    if (call.element == Element::kOther) {
        Fail(Cause::kUnsupported, Format("%s of %s", call.name, sim::NameOf(call.element)));
    }
    if (shape.blocks > kMostCopyBlocks) {
        Fail(Cause::kArgument, Format("blockCount is %" PRIu64 "; at most %" PRIu64, shape.blocks, kMostCopyBlocks));
    }
    if (pad && shape.block_bytes > kMostPadBlockBytes) {
        Fail(Cause::kArgument,
             Format("blockLen is %" PRIu64 " bytes; at most %" PRIu64, shape.block_bytes, kMostPadBlockBytes));
    }
    if (!pad && shape.block_bytes % kUbBlock != 0) {
        Fail(Cause::kArgument, Format("copies %" PRIu64 " bytes; DataCopy takes multiples of %u and drops the rest, "
                                      "DataCopyPad takes any number",
                                      shape.block_bytes, kUbBlock));
    }
    if (shape.block_bytes % BytesOf(call.element) != 0) {
        Fail(Cause::kArgument, Format("blockLen is %" PRIu64 " bytes, no multiple of the %u of %s", shape.block_bytes,
                                      BytesOf(call.element), sim::NameOf(call.element)));
    }
    if (!pad && call.gm % BytesOf(call.element) != 0) {
        Fail(Cause::kArgument, Format("global memory begins at 0x%" PRIx64 ", no multiple of the %u bytes of %s",
                                      call.gm, BytesOf(call.element), sim::NameOf(call.element)));
    }
    if (shape.left_pad_bytes > kMostPaddingBytes || shape.right_pad_bytes > kMostPaddingBytes) {
        Fail(Cause::kArgument, Format("padding of %u and %u bytes; at most %" PRIu64 " a side", shape.left_pad_bytes,
                                      shape.right_pad_bytes, kMostPaddingBytes));
    }
    if ((shape.blocks == 0 || shape.block_bytes == 0) && launch_->settings.chip->is_310b) {
        Fail(Cause::kArgument, Format("%s of nothing is documented to do nothing on Atlas A2 only, not on %s",
                                      call.name, launch_->settings.chip->name));
    }
    CheckAligned(call.local, in ? "dst" : "src");
    CheckCopyPosition(call, in);
}

// DataCopy goes from global memory to VECIN and from VECOUT to global memory; DataCopyPad takes both either way.
void Core::CheckCopyPosition(const CopyCall& call, bool in) const {
    if (call.local.buffer < 0) {
        return;  // refused elsewhere, as a tensor without a buffer
    }
    const UbPosition position = buffers_[call.local.buffer].position;
    const bool pad = std::strcmp(call.name, "DataCopyPad") == 0;
    if (position == UbPosition::kCalc || (!pad && position != (in ? UbPosition::kIn : UbPosition::kOut))) {
        Fail(Cause::kArgument, Format("%s is at %s; %s takes %s", in ? "dst" : "src", NameOf(position), call.name,
                                      pad ? "VECIN and VECOUT" : (in ? "VECIN" : "VECOUT")));
    }
}

void Core::Copy(const CopyCall& call, bool in) {
    const Pipe pipe = in ? Pipe::kMte2 : Pipe::kMte3;
    current_ = {pipe, pipes_[static_cast<int>(pipe)].issued + 1, call.name, 0};
    CheckCopyShape(call, in);
    const CopyShape& shape = call.shape;
    if (shape.blocks == 0 || shape.block_bytes == 0) {
        return;
    }
    const uint64_t run = shape.left_pad_bytes + shape.block_bytes + shape.right_pad_bytes;
    const uint64_t padded = (run + kUbBlock - 1) / kUbBlock * kUbBlock;
    const uint64_t ub_bytes = shape.blocks * padded + (shape.blocks - 1) * shape.ub_gap_bytes;
    CheckLocal(call.local, ub_bytes, in ? "dst" : "src");
    if (launch_->settings.check_bounds) {
        for (uint64_t block = 0; block < shape.blocks; ++block) {
            const uint64_t begin = call.gm + block * (shape.block_bytes + shape.gm_gap_bytes);
            const std::string wrong = CheckGlobal(launch_->tensors, begin, shape.block_bytes, !in);
            if (!wrong.empty()) {
                Fail(Cause::kBounds, wrong);
            }
        }
    }
    (in ? counters_.in : counters_.out).Count(shape.blocks * shape.block_bytes);
    counters_.unaligned_copies += OffsetInTensor(launch_->tensors, call.gm) % kGmLineBytes != 0 ? 1 : 0;
    Instruction& instruction = Issue(in ? Instruction::Kind::kCopyIn : Instruction::Kind::kCopyOut, call.name, pipe);
    (in ? instruction.dst : instruction.src0) = call.local;
    instruction.dst_bytes = ub_bytes;
    instruction.gm = call.gm;
    instruction.shape = shape;
    instruction.element_bytes = BytesOf(call.element);
    instruction.cycles = CopyCycles(*launch_->settings.chip, shape.blocks * shape.block_bytes);
    AfterIssue();
}

void Core::CheckVectorOverlap(const VectorCall& call, uint64_t dst_bytes, uint64_t src_bytes) const {
    const LocalRange* const sources[] = {&call.src0, &call.src1};
    for (int i = 0; i < call.sources; ++i) {
        const LocalRange& source = *sources[i];
        const bool apart =
            call.dst.address + dst_bytes <= source.address || source.address + src_bytes <= call.dst.address;
        const bool same = call.dst.address == source.address && dst_bytes == src_bytes;
        if (!apart && !same) {
            Fail(Cause::kArgument,
                 Format("dst and src%d overlap in part: [%u, %" PRIu64 ") and [%u, %" PRIu64 ")", i, call.dst.address,
                        call.dst.address + dst_bytes, source.address, source.address + src_bytes));
        }
    }
}

void Core::Vector(const VectorCall& call) {
    current_ = {Pipe::kVector, pipes_[static_cast<int>(Pipe::kVector)].issued + 1, call.name, 0};
    std::string supported;
    const VectorLoop loop = FindVectorLoop(call.op, call.dst_element, call.src_element, call.round_mode, &supported);
    if (loop == nullptr) {
        const std::string what = call.op == VectorOp::kCast
                                     ? Format("Cast from %s to %s in rounding mode %d", sim::NameOf(call.src_element),
                                              sim::NameOf(call.dst_element), call.round_mode)
                                     : Format("%s of %s", call.name, sim::NameOf(call.dst_element));
        Fail(Cause::kUnsupported, Format("%s: %s has no such instruction; it has %s", what.c_str(),
                                         launch_->settings.chip->name, supported.c_str()));
    }
    if (call.count < 0 || (call.count == 0 && launch_->settings.chip->is_310b)) {
        Fail(Cause::kArgument, Format("count is %" PRId64, call.count));
    }
    const uint64_t dst_bytes = static_cast<uint64_t>(call.count) * BytesOf(call.dst_element);
    const uint64_t src_bytes = static_cast<uint64_t>(call.count) * BytesOf(call.src_element);
    CheckLocal(call.dst, dst_bytes, "dst");
    CheckAligned(call.dst, "dst");
    const LocalRange* const sources[] = {&call.src0, &call.src1};
    const char* const names[] = {"src0", "src1"};
    for (int i = 0; i < call.sources; ++i) {
        CheckLocal(*sources[i], src_bytes, names[i]);
        CheckAligned(*sources[i], names[i]);
    }
    CheckVectorOverlap(call, dst_bytes, src_bytes);

    const int op = static_cast<int>(call.op);
    ++counters_.vector_calls[op];
    counters_.vector_elements[op] += static_cast<uint64_t>(call.count);
    const uint64_t wider_bytes = call.sources == 0 ? dst_bytes : std::max(dst_bytes, src_bytes);
    const uint64_t repeats = (wider_bytes + kRepeatBytes - 1) / kRepeatBytes;
    counters_.vector_repeats += repeats;

    Instruction& instruction = Issue(Instruction::Kind::kVector, call.name, Pipe::kVector);
    instruction.dst = call.dst;
    instruction.src0 = call.src0;
    instruction.src1 = call.src1;
    instruction.dst_bytes = dst_bytes;
    instruction.src_bytes = src_bytes;
    instruction.sources = call.sources;
    instruction.loop = loop;
    instruction.dst_element = call.dst_element;
    instruction.scalar = call.scalar;
    instruction.count = call.count;
    // Rounding modes have the numbers of RoundMode, except CAST_NONE, for which no loop takes a mode.
    instruction.round_mode = call.round_mode;
    instruction.cycles = VectorCycles(repeats);
    AfterIssue();
}

void Core::ReadLocal(const LocalRange& tensor, uint64_t offset_bytes, void* value, uint32_t bytes) {
    PipeQueue& scalar = pipes_[0];
    current_ = {Pipe::kScalar, ++scalar.issued, "LocalTensor::GetValue", ++issued_};
    const LocalRange item = PartOf(tensor, offset_bytes);
    CheckLocal(item, bytes, "the tensor");
    scalar.names[scalar.issued % kNames] = current_.name;
    scalar.clock[0] = scalar.issued;
    CheckRead(Pipe::kScalar, item, bytes);
    std::memcpy(value, ub_.At(item.address), bytes);
    ub_.NoteRead(item.address, bytes, Pipe::kScalar, scalar.issued);
}

void Core::WriteLocal(const LocalRange& tensor, uint64_t offset_bytes, const void* value, uint32_t bytes) {
    PipeQueue& scalar = pipes_[0];
    current_ = {Pipe::kScalar, ++scalar.issued, "LocalTensor::SetValue", 0};
    const LocalRange item = PartOf(tensor, offset_bytes);
    CheckLocal(item, bytes, "the tensor");
    scalar.names[scalar.issued % kNames] = current_.name;
    scalar.clock[0] = scalar.issued;
    CheckWrite(Pipe::kScalar, item, bytes);
    std::memcpy(ub_.At(item.address), value, bytes);
    ub_.NoteWrite(item.address, bytes, Pipe::kScalar, scalar.issued);
}

void Core::ReadGlobal(uint64_t gm, void* value, uint32_t bytes) {
    PipeQueue& scalar = pipes_[0];
    current_ = {Pipe::kScalar, ++scalar.issued, "GlobalTensor::GetValue", 0};
    if (launch_->settings.check_bounds) {
        const std::string wrong = CheckGlobal(launch_->tensors, gm, bytes, false);
        if (!wrong.empty()) {
            Fail(Cause::kBounds, wrong);
        }
    }
    if (traffic_.writes.Latest(gm, gm + bytes) > 0) {
        Fail(Cause::kRace, Format("reads what pipe MTE3 writes in the same launch, %s: the data cache is not coherent",
                                  DescribeGlobal(launch_->tensors, gm).c_str()));
    }
    GuardedCopy(value, reinterpret_cast<const void*>(gm), bytes);
    traffic_.reads.Add(gm, gm + bytes, scalar.issued);
    ++counters_.scalar_reads;
    counters_.scalar_read_bytes += bytes;
}

void Core::RefuseOn310b(const char* name) {
    if (launch_->settings.chip->is_310b) {
        Fail(Cause::kUnsupported,
             Format("%s is not supported on Atlas 200I/500 A2 (%s)", name, launch_->settings.chip->name));
    }
}

void Core::Fail(Cause cause, const std::string& what) const { throw KernelError(cause, Where() + ": " + what); }

std::string Core::Where() const {
    std::string where = Format("block %" PRId64 ", pipe %s", traffic_.block, NameOf(current_.pipe));
    if (current_.number > 0) {
        where += Format(", call %u", current_.number);
    }
    return current_.name == nullptr ? where : where + " (" + current_.name + ")";
}

const char* NameOf(UbPosition position) {
    switch (position) {
        case UbPosition::kIn:
            return "VECIN";
        case UbPosition::kOut:
            return "VECOUT";
        case UbPosition::kCalc:
            return "VECCALC";
    }
    return "?";
}

const char* NameOf(Pipe pipe) {
    switch (pipe) {
        case Pipe::kScalar:
            return "S";
        case Pipe::kVector:
            return "V";
        case Pipe::kMte2:
            return "MTE2";
        case Pipe::kMte3:
            return "MTE3";
    }
    return "?";
}

}  // namespace sim

// Read mutated native files with libFuzzer, and run those that are taken: make -C lvm_runtime/native fuzz
#include <cstdlib>
#include <vector>

#include "engine.h"

namespace {

// Floats that a plan may take as its input before running it is left out: reading is what is fuzzed.
constexpr int64_t most_floats = 1 << 16;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    try {
        lvm::Engine engine(bytes, size, "avx2", 1);
        const lvm::Plan& plan = engine.plan();
        int64_t vectors = plan.sequence ? plan.length + 1 : 2 * plan.length, floats = vectors * plan.dim;
        for (const lvm::Buffer& buffer : plan.buffers) floats += buffer.size;
        if (floats > most_floats) return 0;
        std::vector<float> input(static_cast<size_t>(vectors * plan.dim), 1.0f), prediction(static_cast<size_t>(2 * plan.dim));
        std::vector<float> attention(static_cast<size_t>(2 * plan.length));
        engine.run(input.data(), 2, prediction.data(), plan.attention >= 0 ? attention.data() : nullptr);
    } catch (const lvm::FileError&) {
    }
    return 0;
}

// What the CPU at hand can do, and what the system lets it.
#pragma once

namespace lvm {

struct Cpu {
    bool avx2 = false, avx_vnni = false, avx512_vnni = false, amx = false, neon_dot = false, i8mm = false;
};

const Cpu& cpu();

}  // namespace lvm

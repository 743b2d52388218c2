// Run native files on every path of this CPU and compare the bits with those of another machine.
//   check FILE… where FILE.contexts and FILE.predictions hold the float32 input and the answers to expect
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

#include "engine.h"

namespace {

std::vector<uint8_t> read(const std::string& name) {
    std::ifstream file(name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

int main(int count, char** names) {
    int wrong = 0, runs = 0;
    for (int i = 1; i < count; ++i) {
        std::string name = names[i];
        std::vector<uint8_t> file = read(name), contexts = read(name + ".contexts"), expected = read(name + ".predictions");
        for (const lvm::Path* path : lvm::all_paths()) {
            if (!path->available()) continue;
            for (int threads : {1, 2}) {
                lvm::Engine engine(file.data(), file.size(), path->name, threads);
                int64_t dim = engine.plan().dim, all = static_cast<int64_t>(expected.size()) / 4 / dim;
                bool same = all > 0;
                for (int64_t windows : {int64_t(1), int64_t(2), int64_t(3), int64_t(4), int64_t(5), int64_t(6), all}) {  // tiles of every height
                    std::vector<uint8_t> found(static_cast<size_t>(4 * windows * dim));
                    engine.run(reinterpret_cast<const float*>(contexts.data()), windows, reinterpret_cast<float*>(found.data()), nullptr);
                    same = same && std::equal(found.begin(), found.end(), expected.begin());
                }
                std::printf("%s %s, %d threads: %s\n", name.c_str(), path->name, threads, same ? "the same bits" : "DIFFERENT");
                wrong += !same, ++runs;
            }
        }
    }
    return wrong || !runs;
}

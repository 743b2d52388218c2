// A plan with the threads and the memory to run it, safe to share between threads.
#pragma once

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "program.h"
#include "team.h"

namespace lvm {

class Engine {
  public:
    static constexpr float no_limit = std::numeric_limits<float>::infinity();

    // Throws FileError for a malformed file, std::invalid_argument for a path that is unknown or not of this CPU.
    Engine(const uint8_t* bytes, size_t size, const std::string& path, int threads);
    ~Engine();

    const Plan& plan() const { return program_.plan; }
    const Path& path() const { return *path_; }
    int threads() const { return threads_; }

    // Predict for `windows` ≥ 1 contexts, or windows of a document; `attention` may be nullptr. False, and predictions of
    // no meaning, if x·x of a vector is over `most` or no number; `no_limit`: nothing is looked at.
    bool run(const float* input, int64_t windows, float* prediction, float* attention, float most = no_limit);

    // The same on this thread alone; returns what each step is and the seconds that it took.
    std::vector<std::pair<std::string, double>> profile(const float* input, int64_t windows, float* prediction);

  private:
    struct Scratch;
    struct Workspace;
    struct Process;
    class Lease;
    Process& process();
    bool run_slice(Workspace& space, Team& team, bool leads, const float* input, int64_t windows, float* prediction,
                   float* attention, float most = no_limit, double* seconds = nullptr);
    bool look_and_run_first(Workspace& space, const float* input, int64_t windows, float most, size_t& next);
    int64_t parts_of(int64_t work) const;
    void run_step(const Step& step, Workspace& space, Scratch& scratch, Team& team, bool leads, int64_t windows);
    void run_product(const Step& step, Workspace& space, Scratch& scratch, Team& team, bool leads, int64_t windows);

    const Path* path_;
    int threads_;
    Program program_;
    std::atomic<Process*> process_{nullptr};
};

// The paths of this build, the fastest first, those that this CPU lacks included.
std::vector<const Path*> all_paths();

// The path of this name, or the fastest for "". Throws std::invalid_argument for one that is unknown or not of this CPU.
const Path& find_path(const std::string& name);

}  // namespace lvm

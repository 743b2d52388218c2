#include "engine.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stdexcept>

namespace lvm {
namespace {

using Clock = std::chrono::steady_clock;

// Below this many windows for each thread, threads share out the columns of each product and not the windows. Weights in
// floats take four times as long to read, so up to more windows they are better read once.
constexpr int64_t least_windows = 4, least_windows_in_floats = 16;
// Multiply-adds of a product that are worth sharing out, and those of each part where there are more than two.
constexpr int64_t least_work = 100000;
// From so many shares of windows on, they are shared out though there are more threads than shares.
constexpr int64_t enough_shares = 8;

}  // namespace

std::vector<const Path*> all_paths() {
    return {
#if defined(__x86_64__) && defined(__linux__)
        &path_amx,
#endif
#if defined(__x86_64__) || defined(_M_X64)
        &path_avx512_vnni, &path_avx_vnni, &path_avx2,
#endif
#ifdef LVM_I8MM
        &path_i8mm,
#endif
#ifdef LVM_NEON_DOT
        &path_neon_dot,
#endif
        &path_plain,
    };
}

const Path& find_path(const std::string& name) {
    std::string here;
    for (const Path* path : all_paths()) {
        if (!path->available()) continue;
        if (name.empty() || name == path->name) return *path;
        here += (here.empty() ? "" : ", ") + std::string(path->name);
    }
    throw std::invalid_argument("CPU path " + name + " is not one of this machine's: " + here);
}

// What a thread needs for a product: where its rows lie, and rows of floats as they are multiplied.
struct Engine::Scratch {
    Aligned<float> packed;
    std::vector<float*> out;
    std::vector<const float*> in, add;

    explicit Scratch(int64_t widest) : packed(float_rows * widest) {}
};

struct Engine::Workspace {
    Aligned<uint8_t> arena;
    std::vector<float*> bases;
    Scratch scratch, aside;  // `aside`: of a product that a second thread runs

    explicit Workspace(const Program& program)
        : arena(program.arena), bases(program.slots.size()), scratch(program.widest), aside(program.widest_aside) {
        for (size_t i = 0; i < bases.size(); ++i)
            if (program.slots[i].offset >= 0) bases[i] = reinterpret_cast<float*>(arena.data() + program.slots[i].offset);
    }
};

// What belongs to one process: after a fork the child makes its own and leaves the parent's, whose threads it lacks.
struct Engine::Process {
    uint64_t generation;
    Team team;
    std::mutex lock;
    std::condition_variable given_back;
    std::vector<std::unique_ptr<Workspace>> spare;
    size_t left;  // workspaces that may still be made: one for each CPU, or for each thread if these are more

    Process(uint64_t number, int threads)
        : generation(number), team(threads), left(std::max<size_t>(threads, std::thread::hardware_concurrency())) {
        spare.reserve(left);
    }
};

// A workspace for as long as this lives. More callers than CPUs wait for each other here: they would not compute
// sooner, and each would need memory of its own.
class Engine::Lease {
  public:
    Lease(const Program& program, Process& process) : process_(process) {
        std::unique_lock<std::mutex> lock(process.lock);
        process.given_back.wait(lock, [&] { return !process.spare.empty() || process.left > 0; });
        if (process.spare.empty()) {
            space_ = std::make_unique<Workspace>(program);
            --process.left;
        } else {
            space_ = std::move(process.spare.back());
            process.spare.pop_back();
        }
    }
    ~Lease() {
        {
            std::lock_guard<std::mutex> lock(process_.lock);
            process_.spare.push_back(std::move(space_));
        }
        process_.given_back.notify_one();
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Workspace& operator*() const { return *space_; }

  private:
    Process& process_;
    std::unique_ptr<Workspace> space_;
};

Engine::Engine(const uint8_t* bytes, size_t size, const std::string& path, int threads)
    : path_(&find_path(path)), threads_(std::clamp(threads, 1, 256)), program_(compile(read_plan(bytes, size), *path_)) {
    process();
}

Engine::~Engine() {
    Process* last = process_.load();
    if (last->generation == process_generation()) delete last;
}

Engine::Process& Engine::process() {
    uint64_t generation = process_generation();
    Process* found = process_.load(std::memory_order_acquire);
    if (found && found->generation == generation) return *found;
    // a child of a fork starts no threads of its own accord: it may be short-lived, and it may fork again
    auto* fresh = new Process(generation, found ? 1 : threads_);
    if (process_.compare_exchange_strong(found, fresh)) return *fresh;
    delete fresh;
    return *found;
}

bool Engine::run(const float* input, int64_t windows, float* prediction, float* attention, float most) {
    Process& here = process();
    const Plan& plan = program_.plan;
    int64_t step = plan.dim * (plan.sequence ? 1 : plan.length);
    int64_t shares = std::min<int64_t>(windows / (plan.in_floats() ? least_windows_in_floats : least_windows), threads_);
    bool by_rows = shares == threads_ || shares >= enough_shares;
    bool leads = threads_ > 1 && here.team.lead(static_cast<int>(by_rows ? shares : parts_of(windows * program_.most_work)));
    by_rows = by_rows && leads;
    int64_t slices = (windows + program_.slice - 1) / program_.slice;
    if (by_rows) slices = round_up(slices, shares);
    constexpr int64_t most_parts = 60000;  // of one task
    std::atomic<bool> usable{true};
    for (int64_t start = 0; start < slices; start += most_parts) {
        auto slice = [&](int64_t part) {
            if (!usable.load(std::memory_order_relaxed)) return;
            int64_t from = windows * (start + part) / slices, to = windows * (start + part + 1) / slices;
            Lease space(program_, here);
            if (!run_slice(*space, here.team, leads && !by_rows, input + from * step, to - from, prediction + from * plan.dim,
                           attention ? attention + from * plan.length : nullptr, most))
                usable = false;
        };
        here.team.share(std::min(most_parts, slices - start), by_rows, slice);
    }
    if (leads) here.team.release();
    return usable;
}

bool Engine::run_slice(Workspace& space, Team& team, bool leads, const float* input, int64_t windows, float* prediction,
                       float* attention, float most, double* seconds) {
    const Plan& plan = program_.plan;
    space.bases[0] = const_cast<float*>(input);
    space.bases[plan.prediction] = prediction;
    float* kept = plan.attention >= 0 ? space.bases[plan.attention] : nullptr;
    if (attention && plan.attention >= 0) space.bases[plan.attention] = attention;
    const std::vector<Step>& steps = program_.steps;
    size_t first = 0;
    bool usable = most == no_limit || look_and_run_first(space, input, windows, most, first);
    for (size_t i = first; i < steps.size() && usable; ++i) {
        size_t aside = steps[i].aside;
        int64_t work = windows * steps[aside].work;
        if (aside && leads && work >= least_work && (threads_ == 2 || work < 4 * least_work)) {
            team.share(2, true, [&](int64_t part) {
                if (part) return run_step(steps[aside], space, space.aside, team, false, windows);
                for (; i < aside; ++i) run_step(steps[i], space, space.scratch, team, false, windows);
            });
            continue;
        }
        auto began = seconds ? Clock::now() : Clock::time_point();
        run_step(steps[i], space, space.scratch, team, leads, windows);
        if (seconds) *seconds++ += std::chrono::duration<double>(Clock::now() - began).count();
    }
    if (plan.attention >= 0) space.bases[plan.attention] = kept;
    return usable;
}

std::vector<std::pair<std::string, double>> Engine::profile(const float* input, int64_t windows, float* prediction) {
    Process& here = process();
    const Plan& plan = program_.plan;
    int64_t vector = plan.dim * (plan.sequence ? 1 : plan.length);
    std::vector<double> seconds(program_.steps.size());
    Lease space(program_, here);
    for (int64_t from = 0; from < windows; from += program_.slice) {
        int64_t count = std::min(program_.slice, windows - from);
        run_slice(*space, here.team, false, input + from * vector, count, prediction + from * plan.dim, nullptr, no_limit, seconds.data());
    }
    std::vector<std::pair<std::string, double>> found;
    for (size_t i = 0; i < seconds.size(); ++i) found.emplace_back(program_.name(program_.steps[i]), seconds[i]);
    return found;
}

// Look at the input a window, or a vector of a document, at a time, and run the first step for it, which then finds it in
// the nearest cache; a step that is shared out otherwise is left.
bool Engine::look_and_run_first(Workspace& space, const float* input, int64_t windows, float most, size_t& next) {
    const Plan& plan = program_.plan;
    const Step& step = program_.steps[0];
    int64_t vectors = plan.sequence ? windows + plan.length - 1 : windows * plan.length;
    if (step.product || step.aside || plan.sequence != step.per_vector)
        return path_->usable(input, vectors, plan.dim, most);
    int64_t together = step.per_vector ? 1 : plan.length;
    for (int64_t i = 0; i * together < vectors; ++i) {
        if (!path_->usable(input + i * together * plan.dim, together, plan.dim, most)) return false;
        path_->rows({step.ops.data(), static_cast<int64_t>(step.ops.size()), space.bases.data(), i, 1, step.rows});
    }
    next = 1;
    return true;
}

// How many threads share out so many multiply-adds.
int64_t Engine::parts_of(int64_t work) const {
    return work < least_work ? 1 : std::min<int64_t>(threads_, std::max<int64_t>(2, work / least_work));
}

void Engine::run_step(const Step& step, Workspace& space, Scratch& scratch, Team& team, bool leads, int64_t windows) {
    int64_t count = windows + (step.per_vector ? program_.plan.length - 1 : 0);
    if (step.product) return run_product(step, space, scratch, team, leads, count);
    path_->rows({step.ops.data(), static_cast<int64_t>(step.ops.size()), space.bases.data(), 0, count, step.rows});
}

void Engine::run_product(const Step& step, Workspace& space, Scratch& scratch, Team& team, bool leads, int64_t windows) {
    const Packed& weight = program_.weights[step.weight];
    int64_t rows = windows * step.rows;
    auto find_rows = [&](const Ref& ref, auto& found) {
        found.resize(static_cast<size_t>(rows));
        for (int64_t b = 0, i = 0; b < windows; ++b)
            for (int64_t r = 0; r < step.rows; ++r, ++i)
                found[i] = space.bases[ref.slot] + b * ref.outer + ref.offset + r * ref.step;
    };
    find_rows(step.out, scratch.out);
    if (step.adds) find_rows(step.add, scratch.add);
    auto share = [&](auto call, int64_t panels, int64_t together, void (*run)(const decltype(call)&)) {
        int64_t units = (panels + together - 1) / together, parts = leads ? std::min(units, parts_of(windows * step.work)) : 1;
        team.share(parts, parts > 1, [&](int64_t part) {
            auto mine = call;
            mine.panel_start = units * part / parts * together;
            mine.panel_stop = std::min(panels, units * (part + 1) / parts * together);
            run(mine);
        });
    };
    if (step.shadow >= 0) {
        const Shadow& shadow = program_.shadows[step.shadow];
        int64_t apart = step.rows == shadow.source.rows ? 1 : shadow.source.rows;
        ProductCall call;
        call.weight = &weight;
        call.a = reinterpret_cast<const uint8_t*>(space.bases[shadow.bytes_slot]) + step.first_row * shadow.width;
        call.a_step = apart * shadow.width;
        call.scale = space.bases[shadow.scale_slot] + step.first_row;
        call.scale_step = apart;
        call.rows = rows;
        call.out = scratch.out.data();
        call.add = step.adds ? scratch.add.data() : nullptr;
        return share(call, (weight.outputs + panel - 1) / panel, 1, path_->product);
    }
    find_rows(step.in, scratch.in);
    for (int64_t row = 0; row < rows; row += float_rows) {
        FloatCall call;
        call.weight = &weight;
        call.first = row;
        call.rows = std::min(float_rows, rows - row);
        call.a = call.rows > 1 ? scratch.packed.data() : scratch.in[row];
        if (call.rows > 1) path_->pack(scratch.in.data() + row, call.rows, weight.inputs, scratch.packed.data());
        call.out = scratch.out.data() + row;
        call.add = step.adds ? scratch.add.data() + row : nullptr;
        share(call, (weight.outputs + float_panel - 1) / float_panel, 4, path_->float_product);
    }
}

}  // namespace lvm

#include "program.h"

#include <algorithm>
#include <cstring>
#include <map>

namespace lvm {
namespace {

// Windows that run at once: as many as leave their values in a core's second cache, within these bounds. Each slice reads
// all weights again, from beyond that cache those of a large model: 32 windows of a Transformer take less time than 12.
constexpr int64_t slice_bytes = 3 << 20, least_slice = 32, most_slice = 64;

// An operation of the plan, or rows of a shadow that are to be quantised.
struct Item {
    int operation, shadow;
    int64_t row, rows;
};

bool overlap(const View& view, int64_t start, int64_t stop) {
    for (int64_t r = 0; r < view.rows; ++r)
        if (view.offset + r * view.step < stop && start < view.offset + r * view.step + view.width) return true;
    return false;
}

int64_t packed_bytes(const Matrix& matrix) {
    if (matrix.floats) return round_up(matrix.inputs * round_up(matrix.outputs, float_panel) * 4, 64);
    return round_up(matrix.inputs, inner) * round_up(matrix.outputs, panel);
}

// `values`: zeros, where the integers will lie.
void pack_integers(Packed& packed, const Matrix& matrix, const Operation& operation, const Path& path, int8_t* values) {
    int64_t together = path.together, inputs = matrix.inputs, outputs = matrix.outputs;
    int64_t filled = round_up(outputs, panel), depth = round_up(inputs, inner);
    packed.inputs = depth, packed.values = values;
    packed.scale = Aligned<float>(filled), packed.start = Aligned<int32_t>(filled);
    int32_t zero = (operation.positive ? 0 : 128) - path.zero_shift;
    float steps = operation.positive ? 255.0f : 127.0f;
    for (int64_t first = 0; first < outputs; first += panel) {
        int64_t columns = std::min(panel, outputs - first);
        int32_t sums[panel] = {};
        for (int64_t k = 0; k < inputs; ++k) {  // row by row: a column's values lie far apart
            const int8_t* row = matrix.values + k * outputs + first;
            int8_t* out = values + first * depth + k / together * together * panel + k % together;
            for (int64_t n = 0; n < columns; ++n) out[together * n] = row[n], sums[n] += row[n];
        }
        for (int64_t n = 0; n < columns; ++n) {
            packed.scale[first + n] = matrix.scale[first + n] / steps;
            packed.start[first + n] = -zero * sums[n];
        }
    }
}

void pack_floats(Packed& packed, const Matrix& matrix, float* floats) {
    packed.inputs = matrix.inputs, packed.floats = floats;
    for (int64_t n = 0; n < matrix.outputs; n += float_panel)
        for (int64_t k = 0; k < matrix.inputs; ++k)
            std::memcpy(floats + (n * matrix.inputs + k * float_panel), matrix.floats + (k * matrix.outputs + n) * 4,
                        static_cast<size_t>(std::min(float_panel, matrix.outputs - n)) * 4);
}

// `memory`: zeros, where the weight will lie.
Packed pack(const Matrix& matrix, const Operation& operation, const Path& path, int8_t* memory) {
    Packed packed;
    int64_t outputs = packed.outputs = matrix.outputs, filled = round_up(outputs, panel);
    if (matrix.floats)
        pack_floats(packed, matrix, reinterpret_cast<float*>(memory)), filled = round_up(outputs, float_panel);
    else
        pack_integers(packed, matrix, operation, path, memory);
    packed.bias_rows = std::max<int64_t>(1, static_cast<int64_t>(operation.bias.size()) / outputs);
    packed.bias = Aligned<float>(packed.bias_rows * filled);
    for (size_t i = 0; i < operation.bias.size(); ++i)
        packed.bias[static_cast<int64_t>(i) / outputs * filled + static_cast<int64_t>(i) % outputs] = operation.bias[i];
    return packed;
}

class Compiler {
  public:
    Compiler(Plan plan, const Path& path) : path_(path) { program_.plan = std::move(plan); }

    Program compile() {
        for (const Buffer& buffer : plan().buffers) program_.slots.push_back({buffer.size * 4, 0, buffer.vectors});
        if (!plan().in_floats()) add_shadows();
        for (const Item& item : order()) item.shadow < 0 ? add_operation(item.operation) : add_quantise(item);
        note_uses();
        set_aside();
        make_local();
        lay_out();
        pack_weights();
        return std::move(program_);
    }

  private:
    const Plan& plan() const { return program_.plan; }

    // Values of several rows come first, so that those of their rows that are read alone find them.
    void add_shadows() {
        for (int pass = 0; pass < 2; ++pass)
            for (const Operation& operation : plan().operations)
                if (operation.kind == Kind::linear && (operation.in[0].rows > 1) == (pass == 0)) {
                    int64_t row;
                    if (find_shadow(operation, row) < 0) add_shadow(operation);
                }
    }

    void add_shadow(const Operation& operation) {
        Shadow shadow;
        shadow.source = operation.in[0];
        shadow.centre = &operation.centre;
        shadow.positive = operation.positive, shadow.per_vector = plan().per_vector(operation);
        shadow.width = round_up(shadow.source.width, inner);
        int64_t rows = shadow.source.rows;
        shadow.bytes_slot = static_cast<int>(program_.slots.size());
        program_.slots.push_back({rows * shadow.width, row_block * shadow.width, shadow.per_vector});
        shadow.scale_slot = static_cast<int>(program_.slots.size());
        program_.slots.push_back({rows * 4, 0, shadow.per_vector});
        program_.shadows.push_back(shadow);
    }

    // The shadow that holds what a product reads, from `row` on; −1 if there is none.
    int find_shadow(const Operation& operation, int64_t& row) const {
        const View& x = operation.in[0];
        for (size_t i = 0; i < program_.shadows.size(); ++i) {
            const Shadow& shadow = program_.shadows[i];
            const View& source = shadow.source;
            if (*shadow.centre != operation.centre || shadow.positive != operation.positive || shadow.per_vector != plan().per_vector(operation)) continue;
            row = 0;
            if (source == x) return static_cast<int>(i);
            if (x.rows > 1 || source.buffer != x.buffer || source.width != x.width) continue;
            for (; row < source.rows; ++row)
                if (source.offset + row * source.step == x.offset) return static_cast<int>(i);
        }
        return -1;
    }

    // The plan's operations, and rows quantised as soon as they are written; those of the input before they are read.
    std::vector<Item> order() const {
        int count = static_cast<int>(plan().operations.size());
        std::vector<std::vector<Item>> before(count), after(count);
        for (size_t s = 0; s < program_.shadows.size(); ++s) {
            const View& source = program_.shadows[s].source;
            for (int64_t r = 0; r < source.rows; ++r) {
                int written = last_writer(source, r);
                auto& items = written < 0 ? before[first_reader(static_cast<int>(s))] : after[written];
                if (!items.empty() && items.back().shadow == static_cast<int>(s))
                    ++items.back().rows;
                else
                    items.push_back({-1, static_cast<int>(s), r, 1});
            }
        }
        std::vector<Item> all;
        for (int i = 0; i < count; ++i) {
            all.insert(all.end(), before[i].begin(), before[i].end());
            all.push_back({i, -1, 0, 0});
            all.insert(all.end(), after[i].begin(), after[i].end());
        }
        return all;
    }

    int last_writer(const View& view, int64_t row) const {
        int64_t start = view.offset + row * view.step, stop = start + view.width;
        int64_t size = plan().buffers[view.buffer].size;
        if (stop > size) start = 0, stop = size;  // of several vectors
        int last = -1;
        for (size_t i = 0; i < plan().operations.size(); ++i)
            for (const View& out : plan().operations[i].out)
                if (out.buffer == view.buffer && overlap(out, start, stop)) last = static_cast<int>(i);
        return last;
    }

    int first_reader(int shadow) const {
        int64_t row;
        for (size_t i = 0; i < plan().operations.size(); ++i)
            if (plan().operations[i].kind == Kind::linear && find_shadow(plan().operations[i], row) == shadow)
                return static_cast<int>(i);
        return 0;
    }

    Ref refer(const View& view) const {
        return {view.buffer, plan().buffers[view.buffer].size, view.offset, view.rows > 1 ? view.step : 0};
    }

    // The step that a row operation joins: the last one, if that runs over the same rows.
    Step& row_step(bool per_vector, int64_t rows) {
        if (program_.steps.empty() || program_.steps.back().product || program_.steps.back().per_vector != per_vector ||
            program_.steps.back().rows != rows) {
            program_.steps.emplace_back();
            program_.steps.back().per_vector = per_vector, program_.steps.back().rows = rows;
        }
        return program_.steps.back();
    }

    void add_quantise(const Item& item) {
        const Shadow& shadow = program_.shadows[item.shadow];
        View view = shadow.source;
        view.offset += item.row * view.step;
        view.rows = item.rows;
        RowOp op;
        op.kind = RowKind::quantise;
        op.in[0] = refer(view);
        op.width = view.width;
        op.positive = shadow.positive;
        op.weight = shadow.centre->empty() ? nullptr : shadow.centre->data();
        op.bytes_slot = shadow.bytes_slot, op.scale_slot = shadow.scale_slot;
        op.bytes_rows = shadow.source.rows, op.bytes_row = item.row, op.bytes_width = shadow.width;
        row_step(shadow.per_vector, item.rows).ops.push_back(op);
    }

    void add_operation(int index) {
        const Operation& operation = plan().operations[index];
        if (operation.kind == Kind::linear) return add_product(operation);
        static const std::map<Kind, RowKind> kinds = {
            {Kind::relu, RowKind::relu}, {Kind::sigmoid, RowKind::sigmoid}, {Kind::tanh, RowKind::tanh},
            {Kind::gelu, RowKind::gelu}, {Kind::add, RowKind::add}, {Kind::sub, RowKind::sub},
            {Kind::mul, RowKind::mul}, {Kind::layer_norm, RowKind::layer_norm},
            {Kind::normalise, RowKind::normalise}, {Kind::mean, RowKind::mean}, {Kind::mixture, RowKind::mixture},
            {Kind::attention, RowKind::attention}};
        RowOp op;
        op.kind = kinds.at(operation.kind);
        for (int i = 0; i < 3; ++i)
            if (operation.in[i].exists()) op.in[i] = refer(operation.in[i]);
        for (int i = 0; i < 2; ++i)
            if (operation.out[i].exists()) op.out[i] = refer(operation.out[i]);
        op.width = operation.out[0].width;
        op.queries = operation.out[0].rows;
        op.keys = operation.in[operation.kind == Kind::mean ? 0 : 1].rows;
        op.weight = operation.weight.empty() ? nullptr : operation.weight.data();
        op.bias = operation.bias.empty() ? nullptr : operation.bias.data();
        op.eps = operation.eps, op.heads = operation.heads, op.causal = operation.causal;
        if (!operation.weight.empty()) {
            if (op.kind == RowKind::add) op.kind = RowKind::add_weight;
            if (op.kind == RowKind::sub) op.kind = RowKind::sub_weight;
            if (op.kind == RowKind::mul) op.kind = RowKind::mul_weight;
        }
        bool whole = operation.kind == Kind::mean || operation.kind == Kind::mixture || operation.kind == Kind::attention;
        row_step(plan().per_vector(operation), whole ? 1 : operation.out[0].rows).ops.push_back(op);
    }

    // The packed weight of a product; steps that differ in nothing but their rows share one.
    int weight(const Operation& operation) {
        for (size_t i = 0; i < packed_.size(); ++i)
            if (packed_[i]->matrix == operation.matrix && packed_[i]->positive == operation.positive &&
                packed_[i]->bias == operation.bias)
                return static_cast<int>(i);
        packed_.push_back(&operation);
        return static_cast<int>(packed_.size()) - 1;
    }

    void pack_weights() {
        int64_t bytes = 0;
        for (const Operation* operation : packed_) bytes += packed_bytes(plan().matrices[operation->matrix]);
        program_.memory = Aligned<int8_t>(bytes);
        int8_t* values = program_.memory.data();
        for (const Operation* operation : packed_) {
            const Matrix& matrix = plan().matrices[operation->matrix];
            program_.weights.push_back(pack(matrix, *operation, path_, values));
            values += packed_bytes(matrix);
        }
        program_.plan.matrices.clear();  // the packed weights are what runs
    }

    void add_product(const Operation& operation) {
        Step step;
        step.product = true, step.per_vector = plan().per_vector(operation);
        step.rows = operation.out[0].rows;
        step.work = step.rows * operation.in[0].width * operation.out[0].width;
        program_.most_work = std::max(program_.most_work, step.work);
        step.shadow = find_shadow(operation, step.first_row);
        if (step.shadow < 0) {
            step.in = refer(operation.in[0]);
            program_.widest = std::max(program_.widest, operation.in[0].width);
        }
        step.weight = weight(operation);
        step.out = refer(operation.out[0]);
        if ((step.adds = operation.in[1].exists())) step.add = refer(operation.in[1]);
        program_.steps.push_back(std::move(step));
    }

    template <class Use>
    void each_slot(Step& step, Use use) {
        if (step.product) {
            if (step.shadow < 0) {
                use(step.in.slot, &step.in);
            } else {
                const Shadow& shadow = program_.shadows[step.shadow];
                use(shadow.bytes_slot, nullptr), use(shadow.scale_slot, nullptr);
            }
            use(step.out.slot, &step.out);
            if (step.adds) use(step.add.slot, &step.add);
            return;
        }
        for (RowOp& op : step.ops) {
            for (Ref& ref : op.in)
                if (ref.outer) use(ref.slot, &ref);
            for (Ref& ref : op.out)
                if (ref.outer) use(ref.slot, &ref);
            if (op.kind == RowKind::quantise) use(op.bytes_slot, nullptr), use(op.scale_slot, nullptr);
        }
    }

    void note_uses() {
        for (size_t i = 0; i < program_.steps.size(); ++i)
            each_slot(program_.steps[i], [&](int slot, Ref*) {
                Slot& found = program_.slots[slot];
                if (found.first < 0) found.first = static_cast<int>(i);
                found.last = static_cast<int>(i);
            });
        program_.slots[0].first = program_.slots[plan().prediction].first = -1;
    }

    // Whether `later`, a product, must wait for `step`.
    bool needs(Step& later, Step& step) {
        bool found = false;
        each_slot(step, [&](int slot, Ref*) { found |= slot == later.out.slot; });
        each_slot(later, [&](int slot, Ref*) {
            if (step.product) found |= slot == step.out.slot;
            for (const RowOp& op : step.ops) {
                if (op.kind == RowKind::quantise) found |= slot == op.bytes_slot || slot == op.scale_slot;
                for (const Ref& ref : op.out) found |= ref.outer && slot == ref.slot;
            }
        });
        return found;
    }

    // Find products that one thread may run while another runs the steps before them, if both have about as much to do:
    // they wait for each other once, and not at every product.
    void set_aside() {
        std::vector<Step>& steps = program_.steps;
        for (size_t later = 0; later < steps.size(); ++later) {
            if (!steps[later].product) continue;
            size_t ready = later;
            int64_t before = 0, own = steps[later].work;
            for (; ready > 0 && !needs(steps[later], steps[ready - 1]); --ready) before += steps[ready - 1].work;
            if (4 * own < 3 * before || 4 * before < 3 * own) continue;
            steps[ready].aside = later;
            if (steps[later].shadow < 0) program_.widest_aside = program_.widest;
            Slot& out = program_.slots[steps[later].out.slot];
            out.first = std::min(out.first, static_cast<int>(ready));
        }
    }

    // What lives within one step of row operations needs one row's memory, which stays in the nearest cache.
    void make_local() {
        for (Step& step : program_.steps) {
            if (step.product) continue;
            std::map<int, int64_t> steps;  // −1: rows at several distances
            each_slot(step, [&](int slot, Ref* ref) {
                auto [found, fresh] = steps.emplace(slot, ref ? ref->step : -1);
                if (!fresh && (!ref || found->second != ref->step)) found->second = -1;
            });
            for (auto [slot, distance] : steps) {
                Slot& found = program_.slots[slot];
                found.local = found.first >= 0 && found.first == found.last && slot != plan().attention &&
                              slot < static_cast<int>(plan().buffers.size()) && (step.rows == 1 || distance >= 0);
            }
            each_slot(step, [&](int slot, Ref* ref) {
                if (!ref || !program_.slots[slot].local) return;
                ref->outer = 0;
                if (step.rows > 1) ref->step = 0;
            });
        }
    }

    // Give every slot a place for as long as it is used, the first that is free; return the bytes that all take.
    int64_t place(int64_t windows) {
        std::vector<Slot*> placed;
        int64_t end = 0;
        for (Slot& slot : program_.slots) {
            if (slot.first < 0) continue;
            int64_t bytes = bytes_of(slot, windows), at = 0;
            std::vector<std::pair<int64_t, int64_t>> taken;
            for (const Slot* other : placed)
                if (other->first <= slot.last && slot.first <= other->last)
                    taken.emplace_back(other->offset, other->offset + bytes_of(*other, windows));
            std::sort(taken.begin(), taken.end());
            for (auto [start, stop] : taken) {
                if (at + bytes <= start) break;
                at = std::max(at, stop);
            }
            slot.offset = at;
            placed.push_back(&slot);
            end = std::max(end, at + bytes);
        }
        return end;
    }

    int64_t bytes_of(const Slot& slot, int64_t windows) const {
        int64_t count = slot.local ? 1 : windows + (slot.vectors ? plan().length - 1 : 0);
        return round_up(slot.per * count + slot.slack, 64);
    }

    void lay_out() {
        int64_t per_window = std::max<int64_t>(1, (place(17) - place(1)) / 16);
        program_.slice = round_up(std::clamp(slice_bytes / per_window, least_slice, most_slice), path_.row_step);
        program_.arena = place(program_.slice);
    }

    Program program_;
    std::vector<const Operation*> packed_;
    const Path& path_;
};

}  // namespace

std::string Program::name(const Step& step) const {
    if (step.product) {
        const Packed& weight = weights[step.weight];
        return "linear " + std::to_string(step.rows) + " x " + std::to_string(weight.inputs) + " x " + std::to_string(weight.outputs);
    }
    static const char* const names[] = {"relu", "sigmoid", "tanh", "gelu", "add", "sub", "mul", "add", "mul", "sub",
                                        "layer_norm", "normalise", "mean", "mixture", "attention", "quantise"};
    std::string all;
    for (const RowOp& op : step.ops) all += (all.empty() ? "" : ", ") + std::string(names[static_cast<int>(op.kind)]);
    return all;
}

Program compile(Plan plan, const Path& path) { return Compiler(std::move(plan), path).compile(); }

}  // namespace lvm

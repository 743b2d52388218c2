#include "plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>

namespace lvm {
namespace {

constexpr int64_t version = 1, most_buffers = 4096, most_operations = 16384, most_width = 1 << 20;
// Of the rows of a product: the sum of 32,768 products of a byte and a signed byte stays below 2³¹.
constexpr int64_t most_inputs = 32768;
constexpr int64_t most_length = 64, most_size = 1 << 26;

struct Tensor {
    bool bytes = false;
    std::vector<int64_t> shape;
    const uint8_t* data = nullptr;
    int64_t count = 0;
};

void require(bool right, const std::string& what) {
    if (!right) throw FileError(what);
}

class Reader {
  public:
    Reader(const uint8_t* bytes, size_t size) {
        require(size >= 8, "it is too short for a safetensors file");
        uint64_t header = 0;
        for (int i = 7; i >= 0; --i) header = header << 8 | bytes[i];
        require(header <= size - 8, "its header is longer than the file");
        Json top = parse_json(reinterpret_cast<const char*>(bytes) + 8, header);
        for (const auto& [name, entry] : top.object("the header"))
            if (name != "__metadata__") tensors_[name] = tensor(name, entry, bytes + 8 + header, size - 8 - header);
        const std::string& text = top.at("__metadata__").at("plan").string("the plan");
        json_ = parse_json(text.data(), text.size());
    }

    Plan read() {
        int64_t found = json_.at("version").integer("version", 0, 1 << 30);
        require(found == version, "the plan's version is " + std::to_string(found) + ", and this engine reads " +
                                      std::to_string(version) + ": export it again, or install another lvm_runtime");
        plan_.architecture = json_.at("architecture").string("architecture");
        for (char c : plan_.architecture) require(c > ' ' && c <= '~', "architecture is not a word in ASCII");
        plan_.precision = json_.at("precision").string("precision");
        require(plan_.precision == "int8" || plan_.in_floats(), "precision is " + plan_.precision + ", expected int8 or fp32");
        const std::string& form = json_.at("form").string("form");
        require(form == "context" || form == "sequence", "form is " + form + ", expected context or sequence");
        plan_.sequence = form == "sequence";
        plan_.length = json_.at("context_length").integer("context_length", 1, most_length);
        plan_.dim = json_.at("dim").integer("dim", 1, most_width);
        read_buffers();
        read_outputs();
        const auto& operations = json_.at("operations").list("operations");
        require(operations.size() <= most_operations, "it has too many operations");
        for (size_t i = 0; i < operations.size(); ++i) {
            try {
                read_operation(operations[i]);
            } catch (const FileError& error) {
                throw FileError("operation " + std::to_string(i) + ": " + error.what());
            }
        }
        require(defined(plan_.prediction), "nothing writes the prediction");
        require(plan_.attention < 0 || defined(plan_.attention), "nothing writes the attention");
        return std::move(plan_);
    }

  private:
    static Tensor tensor(const std::string& name, const Json& entry, const uint8_t* data, uint64_t size) {
        Tensor found;
        const std::string& type = entry.at("dtype").string("dtype");
        require(type == "I8" || type == "F32", name + ": its type is " + type + ", expected I8 or F32");
        found.bytes = type == "I8";
        found.count = 1;
        for (const Json& axis : entry.at("shape").list("shape")) {
            found.shape.push_back(axis.integer("a shape", 1, most_size));
            found.count *= found.shape.back();
            require(found.count <= int64_t{1} << 32, name + ": it is too large");
        }
        const auto& offsets = entry.at("data_offsets").list("data_offsets");
        require(offsets.size() == 2, name + ": data_offsets are not two");
        int64_t last = static_cast<int64_t>(size);
        int64_t start = offsets[0].integer("data_offsets", 0, last), stop = offsets[1].integer("data_offsets", 0, last);
        require(stop - start == found.count * (found.bytes ? 1 : 4), name + ": data_offsets do not fit its shape");
        found.data = data + start;
        return found;
    }

    void read_buffers() {
        const auto& buffers = json_.at("buffers").list("buffers");
        require(!buffers.empty() && buffers.size() <= most_buffers, "it has no buffers, or too many");
        int64_t sum = 0;
        for (const Json& entry : buffers) {
            const std::string& per = entry.at("per").string("per");
            require(per == "window" || (per == "vector" && plan_.sequence), "a buffer is per " + per);
            plan_.buffers.push_back({per == "vector", entry.at("size").integer("size", 1, most_size)});
            sum += plan_.buffers.back().size;
        }
        require(sum <= most_size, "its buffers are too large");
        const Buffer& input = plan_.buffers[0];
        require(input.vectors == plan_.sequence && input.size == plan_.dim * (plan_.sequence ? 1 : plan_.length),
                "the first buffer is not the input");
        written_.resize(buffers.size());
    }

    void read_outputs() {
        for (const auto& [name, entry] : json_.at("outputs").object("outputs")) {
            bool first = name == "prediction";
            require(first || name == "attention", "an output is called " + name);
            int buffer = static_cast<int>(entry.integer("an output", 1, static_cast<int64_t>(plan_.buffers.size()) - 1));
            const Buffer& found = plan_.buffers[buffer];
            require(!found.vectors && found.size == (first ? plan_.dim : plan_.length), name + ": its buffer is not of its size");
            (first ? plan_.prediction : plan_.attention) = buffer;
        }
        require(plan_.prediction > 0 && plan_.prediction != plan_.attention, "it has no prediction of its own");
    }

    // Floats that are written so far, of each buffer, as intervals.
    bool defined(int buffer) const { return defined(buffer, 0, plan_.buffers[buffer].size); }

    bool defined(int buffer, int64_t start, int64_t stop) const {
        if (buffer == 0) return true;
        auto next = written_[buffer].upper_bound(start);
        return next != written_[buffer].begin() && (--next)->second >= stop;
    }

    void define(const View& view) {
        auto& intervals = written_[view.buffer];
        for (int64_t r = 0; r < view.rows; ++r) {
            int64_t start = view.offset + r * view.step, stop = start + view.width;
            auto next = intervals.lower_bound(start);
            require(next == intervals.end() || next->first >= stop, "it writes what is written already");
            if (next != intervals.end() && next->first == stop) stop = next->second, next = intervals.erase(next);
            if (next != intervals.begin()) {
                auto before = std::prev(next);
                require(before->second <= start, "it writes what is written already");
                if (before->second == start) {
                    before->second = stop;
                    continue;
                }
            }
            intervals[start] = stop;
        }
    }

    View view(const Json& entry, const char* role) const {
        const auto& numbers = entry.at(role).list(role);
        require(numbers.size() == 5, std::string(role) + " is not five numbers");
        View found;
        found.buffer = static_cast<int>(numbers[0].integer(role, 0, static_cast<int64_t>(plan_.buffers.size()) - 1));
        found.offset = numbers[1].integer(role, 0, most_size);
        found.rows = numbers[2].integer(role, 1, most_length);
        found.step = numbers[3].integer(role, 0, most_size);
        found.width = numbers[4].integer(role, 1, most_width);
        return found;
    }

    // A value that the operation, which runs per vector or per window, reads.
    View input(const Json& entry, const char* role, bool per_vector) const {
        View found = view(entry, role);
        const Buffer& buffer = plan_.buffers[found.buffer];
        require(!per_vector || buffer.vectors, std::string(role) + " is of windows, and the result is of vectors");
        // a window reads its T vectors, each of which begins where the one before it ends
        int64_t size = buffer.size * (buffer.vectors && !per_vector ? plan_.length : 1);
        for (int64_t r = 0; r < found.rows; ++r) {
            int64_t start = found.offset + r * found.step, stop = start + found.width;
            require(stop <= size, std::string(role) + " reaches beyond its buffer");
            for (int64_t at = start; at < stop;) {
                int64_t inside = at % buffer.size, part = std::min(stop - at, buffer.size - inside);
                require(defined(found.buffer, inside, inside + part), std::string(role) + " is read before it is written");
                at += part;
            }
        }
        return found;
    }

    View output(const Json& entry, const char* role) const {
        View found = view(entry, role);
        require(found.buffer != 0, std::string(role) + " is the input");
        require(found.rows == 1 || found.step >= found.width, std::string(role) + ": its rows overlap");
        require(found.offset + (found.rows - 1) * found.step + found.width <= plan_.buffers[found.buffer].size,
                std::string(role) + " reaches beyond its buffer");
        return found;
    }

    const Tensor& weight(const std::string& name) const {
        auto found = tensors_.find(name);
        require(found != tensors_.end(), "the weight " + name + " is missing");
        return found->second;
    }

    static void require_finite(const std::string& name, const Tensor& tensor) {
        for (int64_t i = 0; i < tensor.count; ++i) {
            float value;
            std::memcpy(&value, tensor.data + 4 * i, 4);
            if (!std::isfinite(value)) throw FileError("the weight " + name + " holds NaN or infinity");
        }
    }

    std::vector<float> floats(const std::string& name, int64_t count, int64_t other = -1) const {
        const Tensor& found = weight(name);
        require(!found.bytes && (found.count == count || found.count == other),
                "the weight " + name + " holds " + std::to_string(found.count) + ", expected " + std::to_string(count) + " floats");
        require_finite(name, found);
        std::vector<float> values(static_cast<size_t>(found.count));
        std::memcpy(values.data(), found.data, values.size() * 4);
        return values;
    }

    int matrix(const std::string& name);
    void read_operation(const Json& entry);
    void read_linear(const Json& entry, Operation& operation, bool per_vector);
    void read_others(const Json& entry, Operation& operation, bool per_vector);

    Json json_;
    Plan plan_;
    std::map<std::string, Tensor> tensors_;
    std::map<std::string, int> matrices_;
    std::vector<std::map<int64_t, int64_t>> written_;
};

const std::map<std::string, Kind> kinds = {
    {"linear", Kind::linear}, {"relu", Kind::relu}, {"sigmoid", Kind::sigmoid}, {"tanh", Kind::tanh},
    {"gelu", Kind::gelu}, {"add", Kind::add}, {"sub", Kind::sub}, {"mul", Kind::mul},
    {"layer_norm", Kind::layer_norm}, {"normalise", Kind::normalise}, {"mean", Kind::mean},
    {"mixture", Kind::mixture}, {"attention", Kind::attention},
};

void Reader::read_operation(const Json& entry) {
    const std::string& name = entry.at("op").string("op");
    auto kind = kinds.find(name);
    require(kind != kinds.end(), "there is no operation " + name);
    Operation operation;
    operation.kind = kind->second;
    const View& out = operation.out[0] = output(entry, "out");
    bool per_vector = plan_.per_vector(operation);
    if (operation.kind == Kind::linear)
        read_linear(entry, operation, per_vector);
    else
        read_others(entry, operation, per_vector);
    define(out);
    if (operation.out[1].exists()) define(operation.out[1]);
    plan_.operations.push_back(std::move(operation));
}

// The number of the matrix `name`, which several products may share.
int Reader::matrix(const std::string& name) {
    auto [known, fresh] = matrices_.emplace(name, static_cast<int>(plan_.matrices.size()));
    if (!fresh) return known->second;
    const Tensor& found = weight(name);
    bool right = found.bytes != plan_.in_floats() && found.shape.size() == 2;
    require(right, "the weight " + name + " is not a matrix of " + (plan_.in_floats() ? "floats" : "signed bytes"));
    Matrix matrix;
    matrix.inputs = found.shape[0], matrix.outputs = found.shape[1];
    if (plan_.in_floats()) {
        require_finite(name, found);
        matrix.floats = found.data;
        plan_.matrices.push_back(std::move(matrix));
        return known->second;
    }
    matrix.values = reinterpret_cast<const int8_t*>(found.data);
    int most = 0;
    for (int64_t k = 0; k + 1 < matrix.inputs; k += 2) {
        const int8_t *row = matrix.values + k * matrix.outputs, *next = row + matrix.outputs;
        for (int64_t n = 0; n < matrix.outputs; ++n) most = std::max(most, std::abs(row[n] + next[n]));
    }
    require(most <= 128, "the weight " + name + " has neighbours that add up to more than 128");
    matrix.scale = floats(name + "_scale", matrix.outputs);
    plan_.matrices.push_back(std::move(matrix));
    return known->second;
}

void Reader::read_linear(const Json& entry, Operation& operation, bool per_vector) {
    const View& out = operation.out[0];
    const View& x = operation.in[0] = input(entry, "x", per_vector);
    require(x.rows == out.rows, "x does not fit the result");
    require(x.width <= most_inputs, "x has " + std::to_string(x.width) + " columns, expected at most " + std::to_string(most_inputs));
    const Json& weights = entry.at("weights");
    const std::string& name = weights.at("weight").string("weight");
    operation.matrix = matrix(name);
    const Matrix& found = plan_.matrices[operation.matrix];
    require(found.inputs == x.width && found.outputs == out.width, "the weight " + name + " is not of the shape of the product");
    if (const Json* bias = weights.find("bias")) operation.bias = floats(bias->string("bias"), out.width, out.width * out.rows);
    if (const Json* centre = weights.find("centre")) {
        require(!plan_.in_floats(), "a product of floats has no centre");
        operation.centre = floats(centre->string("centre"), x.width);
    }
    if (entry.find("add")) {
        operation.in[1] = input(entry, "add", per_vector);
        require(operation.in[1].rows == out.rows && operation.in[1].width == out.width, "add does not fit the result");
    }
    operation.positive = entry.at("positive").boolean("positive");
}

void Reader::read_others(const Json& entry, Operation& operation, bool per_vector) {
    View& out = operation.out[0];
    View* in = operation.in;
    auto fits = [&](const View& view) { return view.rows == out.rows && view.width == out.width; };
    switch (operation.kind) {
        case Kind::add: case Kind::sub: case Kind::mul:
            in[0] = input(entry, "x", per_vector);
            if (entry.find("y"))
                require(fits(in[1] = input(entry, "y", per_vector)), "y does not fit the result");
            else
                operation.weight = floats(entry.at("weights").at("y").string("y"), out.width);
            break;
        case Kind::layer_norm: {
            in[0] = input(entry, "x", per_vector);
            operation.weight = floats(entry.at("weights").at("weight").string("weight"), out.width);
            operation.bias = floats(entry.at("weights").at("bias").string("bias"), out.width);
            const Json& eps = entry.at("eps");
            require(eps.kind == Json::Kind::number && eps.number > 0 && eps.number < 1, "eps is not between 0 and 1");
            operation.eps = static_cast<float>(eps.number);
            break;
        }
        case Kind::mean:
            in[0] = input(entry, "x", per_vector);
            require(out.rows == 1 && in[0].width == out.width, "x does not fit the result");
            if (const Json* shares = entry.at("weights").find("weight"))
                operation.weight = floats(shares->string("weight"), in[0].rows);
            return;
        case Kind::mixture:
            in[0] = input(entry, "query", per_vector), in[1] = input(entry, "contexts", per_vector);
            operation.out[1] = output(entry, "weights_out");
            require(out.rows == 1 && fits(in[0]) && in[1].width == out.width, "query and contexts do not fit the result");
            require(operation.out[1].rows == 1 && operation.out[1].width == in[1].rows &&
                        plan_.buffers[operation.out[1].buffer].vectors == per_vector,
                    "weights_out are not one per row of contexts");
            if (const Json* bias = entry.at("weights").find("bias")) operation.bias = floats(bias->string("bias"), in[1].rows);
            return;
        case Kind::attention:
            in[0] = input(entry, "query", per_vector), in[1] = input(entry, "key", per_vector);
            in[2] = input(entry, "value", per_vector);
            operation.heads = entry.at("heads").integer("heads", 1, out.width);
            operation.causal = entry.at("causal").boolean("causal");
            require(fits(in[0]) && in[1].width == out.width && in[2].width == out.width && in[1].rows == in[2].rows &&
                        out.width % operation.heads == 0 && (!operation.causal || in[0].rows == in[1].rows),
                    "query, key, value and heads do not fit the result");
            return;
        default: in[0] = input(entry, "x", per_vector);
    }
    require(fits(in[0]), "x does not fit the result");
}

}  // namespace

Plan read_plan(const uint8_t* bytes, size_t size) { return Reader(bytes, size).read(); }

}  // namespace lvm

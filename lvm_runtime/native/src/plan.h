// A plan as read from a native file and checked: every number is in its range, every view inside its buffer, every
// weight there and of the right size. What reads a Plan checks nothing again.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "json.h"

namespace lvm {

// R rows of `width` floats per window b: row r begins at b · (the buffer's size) + offset + r · step.
struct View {
    int buffer = -1;
    int64_t offset = 0, rows = 0, step = 0, width = 0;

    bool exists() const { return buffer >= 0; }
    bool operator==(const View& other) const {
        return buffer == other.buffer && offset == other.offset && rows == other.rows && step == other.step &&
               width == other.width;
    }
};

struct Buffer {
    bool vectors = false;  // one per vector of a document, not one per window
    int64_t size = 0;
};

enum class Kind { linear, relu, sigmoid, tanh, gelu, add, sub, mul, layer_norm, normalise, mean, mixture, attention };

struct Operation {
    Kind kind{};
    View in[3];   // x y – · query contexts – · query key value; for linear: x add –
    View out[2];  // out, and the weights of a mixture
    std::vector<float> weight, bias;  // of a norm; `bias` of a product too; `weight` is the second operand of a sum
    int matrix = -1;                  // of a product
    std::vector<float> centre;        // [in]: taken off before rows are rounded; its product is in the bias
    int64_t heads = 1;
    bool causal = false, positive = false;
    float eps = 0;
};

// A weight [inputs][outputs] in the file: integers with a scale for each output, or float32.
struct Matrix {
    int64_t inputs = 0, outputs = 0;
    const int8_t* values = nullptr;
    std::vector<float> scale;
    const uint8_t* floats = nullptr;
};

struct Plan {
    std::string architecture, precision;
    bool sequence = false;
    int64_t length = 0, dim = 0;
    std::vector<Buffer> buffers;  // the first is the input
    int prediction = -1, attention = -1;
    std::vector<Operation> operations;
    std::vector<Matrix> matrices;

    bool in_floats() const { return precision == "fp32"; }

    // Whether the operation runs once per vector of a document.
    bool per_vector(const Operation& operation) const { return buffers[operation.out[0].buffer].vectors; }
};

// Read the bytes of a native file, which matrices of floats point into. Throws FileError for anything that is not a plan
// of this version.
Plan read_plan(const uint8_t* bytes, size_t size);

}  // namespace lvm

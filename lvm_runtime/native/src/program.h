// A plan made ready to run: weights packed, rows quantised where they are made, operations that run row by row grouped,
// and memory laid out for a slice of windows.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "path.h"
#include "plan.h"

namespace lvm {

// The integers of one value [windows][rows][width]: every product that reads the value, or some of its rows, shares them.
struct Shadow {
    View source;
    const std::vector<float>* centre = nullptr;
    bool positive = false, per_vector = false;
    int bytes_slot = 0, scale_slot = 0;
    int64_t width = 0;  // of a row, filled up
};

// Memory for a slice: `per` bytes for each window, or each vector of a document, at `offset` in the arena.
struct Slot {
    int64_t per = 0, slack = 0;
    bool vectors = false;
    bool local = false;  // written and read row by row in one step: one row's memory serves all
    int first = -1, last = -1;
    int64_t offset = -1;  // below 0: the caller's memory
};

struct Step {
    bool product = false, per_vector = false;
    int64_t rows = 1;
    std::vector<RowOp> ops;  // unless it is a product
    int weight = -1, shadow = -1;  // no shadow where products are in floats: they read `in`
    int64_t first_row = 0;         // of the shadow's rows
    Ref in, out, add;
    bool adds = false;
    int64_t work = 0;  // multiply-adds of a product, for one window
    size_t aside = 0;  // a later product that one thread may run while another runs this step and those between
};

struct Program {
    Plan plan;
    std::vector<Shadow> shadows;
    std::vector<Slot> slots;
    std::vector<Step> steps;
    std::vector<Packed> weights;
    Aligned<int8_t> memory;  // all weights, in one piece
    int64_t widest = 0, widest_aside = 0;  // row that a product of floats reads, or one that is set aside
    int64_t slice = 1;  // windows that run at once
    int64_t arena = 0;  // bytes
    int64_t most_work = 0;  // multiply-adds of the largest product, for one window

    // What a step does, for people.
    std::string name(const Step& step) const;
};

Program compile(Plan plan, const Path& path);

}  // namespace lvm

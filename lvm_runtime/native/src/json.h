// A reader of JSON for plans and safetensors headers: no more than they need, and an error for everything else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace lvm {

// What is wrong with a file; the message is for the user.
struct FileError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Json {
    enum class Kind { null, boolean, number, text, list, object };

    Kind kind = Kind::null;
    bool flag = false;
    double number = 0;
    std::string text;
    std::vector<Json> items;
    std::vector<std::pair<std::string, Json>> fields;

    // The field `key`, or nullptr.
    const Json* find(const std::string& key) const;
    // The field `key`; FileError if it is missing.
    const Json& at(const std::string& key) const;
    // The value as a whole number from `least` to `most`, a text, a boolean, a list or an object; FileError otherwise.
    int64_t integer(const char* what, int64_t least, int64_t most) const;
    const std::string& string(const char* what) const;
    bool boolean(const char* what) const;
    const std::vector<Json>& list(const char* what) const;
    const std::vector<std::pair<std::string, Json>>& object(const char* what) const;
};

Json parse_json(const char* text, size_t size);

}  // namespace lvm

#include "json.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace lvm {
namespace {

constexpr int deepest = 16;

class Parser {
  public:
    Parser(const char* text, size_t size) : at_(text), end_(text + size) {}

    Json whole() {
        Json value = parse(0);
        skip();
        if (at_ != end_) fail("text after the end");
        return value;
    }

  private:
    [[noreturn]] void fail(const char* what) const { throw FileError(std::string("not valid JSON: ") + what); }

    void skip() {
        while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
    }

    bool take(char c) {
        skip();
        if (at_ == end_ || *at_ != c) return false;
        ++at_;
        return true;
    }

    void word(const char* letters) {
        size_t n = std::strlen(letters);
        if (static_cast<size_t>(end_ - at_) < n || std::memcmp(at_, letters, n) != 0) fail("an unknown word");
        at_ += n;
    }

    Json parse(int depth) {
        if (depth > deepest) fail("too deeply nested");
        skip();
        if (at_ == end_) fail("it ends too early");
        Json value;
        switch (*at_) {
            case '{': object(value, depth); break;
            case '[': list(value, depth); break;
            case '"': value.kind = Json::Kind::text, value.text = string(); break;
            case 't': word("true"), value.kind = Json::Kind::boolean, value.flag = true; break;
            case 'f': word("false"), value.kind = Json::Kind::boolean; break;
            case 'n': word("null"); break;
            default: value.kind = Json::Kind::number, value.number = number();
        }
        return value;
    }

    void object(Json& value, int depth) {
        value.kind = Json::Kind::object;
        ++at_;
        if (take('}')) return;
        do {
            skip();
            if (at_ == end_ || *at_ != '"') fail("a key is not a string");
            std::string key = string();
            if (!take(':')) fail("a colon is missing");
            if (value.find(key)) fail("a key comes twice");
            value.fields.emplace_back(std::move(key), parse(depth + 1));
        } while (take(','));
        if (!take('}')) fail("a closing brace is missing");
    }

    void list(Json& value, int depth) {
        value.kind = Json::Kind::list;
        ++at_;
        if (take(']')) return;
        do value.items.push_back(parse(depth + 1));
        while (take(','));
        if (!take(']')) fail("a closing bracket is missing");
    }

    std::string string() {
        std::string text;
        for (++at_; at_ != end_ && *at_ != '"'; ++at_) {
            if (static_cast<unsigned char>(*at_) < 0x20) fail("a control character in a string");
            if (*at_ != '\\') {
                text += *at_;
                continue;
            }
            if (++at_ == end_) break;
            text += escaped(*at_);
        }
        if (at_ == end_) fail("a string has no end");
        ++at_;
        return text;
    }

    char escaped(char c) const {
        switch (c) {
            case '"': case '\\': case '/': return c;
            case 'n': return '\n';
            case 't': return '\t';
            case 'r': return '\r';
            default: fail("an escape that plans do not use");
        }
    }

    double number() {
        const char* start = at_;
        while (at_ != end_ && *at_ && std::strchr("+-.0123456789eE", *at_)) ++at_;
        std::string digits(start, at_);
        char* stop = nullptr;
        double value = std::strtod(digits.c_str(), &stop);
        if (digits.empty() || *stop || !std::isfinite(value)) fail("an unknown value");
        return value;
    }

    const char* at_;
    const char* end_;
};

void expect(bool right, const char* what, const char* kind) {
    if (!right) throw FileError(std::string(what) + " is not " + kind);
}

}  // namespace

const Json* Json::find(const std::string& key) const {
    for (const auto& field : fields)
        if (field.first == key) return &field.second;
    return nullptr;
}

const Json& Json::at(const std::string& key) const {
    const Json* found = find(key);
    if (!found) throw FileError("the key " + key + " is missing");
    return *found;
}

int64_t Json::integer(const char* what, int64_t least, int64_t most) const {
    expect(kind == Kind::number && number == std::floor(number), what, "a whole number");
    if (number < static_cast<double>(least) || number > static_cast<double>(most)) {
        char found[32];
        std::snprintf(found, sizeof found, "%.15g", number);
        throw FileError(std::string(what) + " is " + found + ", expected " + std::to_string(least) + " to " + std::to_string(most));
    }
    return static_cast<int64_t>(number);
}

const std::string& Json::string(const char* what) const {
    expect(kind == Kind::text, what, "a string");
    return text;
}

bool Json::boolean(const char* what) const {
    expect(kind == Kind::boolean, what, "true or false");
    return flag;
}

const std::vector<Json>& Json::list(const char* what) const {
    expect(kind == Kind::list, what, "a list");
    return items;
}

const std::vector<std::pair<std::string, Json>>& Json::object(const char* what) const {
    expect(kind == Kind::object, what, "an object");
    return fields;
}

Json parse_json(const char* text, size_t size) { return Parser(text, size).whole(); }

}  // namespace lvm

#pragma once
// JsonObject: one flat JSON object, written field by field, for the result line of the load generator.
// It escapes what it is given; raw() takes text that is JSON already.

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace natrp::bench {

class JsonObject {
public:
    JsonObject& text(std::string_view name, std::string_view value) { return raw(name, quoted(value)); }
    JsonObject& count(std::string_view name, uint64_t value) { return raw(name, std::to_string(value)); }
    JsonObject& flag(std::string_view name, bool value) { return raw(name, value ? "true" : "false"); }

    JsonObject& number(std::string_view name, double value) {
        char buffer[64];
        std::snprintf(buffer, sizeof buffer, "%.6g", value);
        return raw(name, buffer);
    }

    JsonObject& raw(std::string_view name, std::string_view json) {
        text_ += text_.empty() ? '{' : ',';
        text_ += quoted(name);
        text_ += ':';
        text_ += json;
        return *this;
    }

    std::string str() const { return text_.empty() ? "{}" : text_ + '}'; }

    // One line on standard output, at once: whoever measures us waits for it.
    void print() const {
        std::printf("%s\n", str().c_str());
        std::fflush(stdout);
    }

private:
    static std::string quoted(std::string_view value) {
        std::string out = "\"";
        for (const char c : value) {
            if (c == '"' || c == '\\') {
                out += '\\';
                out += c;
            } else if (static_cast<unsigned char>(c) < 0x20) {
                char buffer[8];
                std::snprintf(buffer, sizeof buffer, "\\u%04x", c);
                out += buffer;
            } else {
                out += c;
            }
        }
        return out + '"';
    }

    std::string text_;
};

}  // namespace natrp::bench

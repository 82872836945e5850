#include "flags.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace natrp::bench {

void refuse(const std::string& sentence) {
    std::fprintf(stderr, "%s: %s\n", program_invocation_short_name, sentence.c_str());
    std::exit(2);
}

Flags::Flags(int argc, char** argv, int first) {
    for (int i = first; i < argc; i += 2) {
        const std::string name = argv[i];
        if (name.size() < 3 || name.compare(0, 2, "--") != 0) {
            refuse("expected a flag that begins with --, but read '" + name + "'");
        }
        if (i + 1 >= argc) {
            refuse("the flag " + name + " needs a value behind it");
        }
        values_[name.substr(2)] = argv[i + 1];
    }
}

std::string Flags::text(const std::string& name, const std::string& otherwise) {
    known_.insert(name);
    const auto found = values_.find(name);
    return found == values_.end() ? otherwise : found->second;
}

std::string Flags::required(const std::string& name) {
    const std::string value = text(name, "");
    if (value.empty()) {
        refuse("the flag --" + name + " is required");
    }
    return value;
}

std::string Flags::one_of(const std::string& name, const std::set<std::string>& allowed,
                          const std::string& otherwise) {
    const std::string value = text(name, otherwise);
    if (allowed.count(value) == 0) {
        std::string list;
        for (const auto& one : allowed) {
            list += (list.empty() ? "" : ", ") + one;
        }
        refuse("--" + name + " " + value + " is none of: " + list);
    }
    return value;
}

double Flags::number(const std::string& name, double otherwise, double least, double most) {
    const std::string value = text(name, "");
    if (value.empty()) {
        return otherwise;
    }
    char* end = nullptr;
    const double parsed = std::strtod(value.c_str(), &end);
    if (end == value.c_str() || *end != '\0' || !std::isfinite(parsed) || parsed < least || parsed > most) {
        char range[80];
        std::snprintf(range, sizeof range, "%g to %g", least, most);
        refuse("--" + name + " " + value + " is not a number from " + range);
    }
    return parsed;
}

uint64_t Flags::count(const std::string& name, uint64_t otherwise, uint64_t least, uint64_t most) {
    const std::string value = text(name, "");
    if (value.empty()) {
        return otherwise;
    }
    char* end = nullptr;
    errno = 0;
    const uint64_t parsed = std::strtoull(value.c_str(), &end, 10);
    if (errno != 0 || value[0] == '-' || *end != '\0' || parsed < least || parsed > most) {
        refuse("--" + name + " " + value + " is not a whole number from " + std::to_string(least) + " to " +
               std::to_string(most));
    }
    return parsed;
}

void Flags::keep_only(const std::set<std::string>& names) {
    std::erase_if(values_, [&](const auto& one) { return names.count(one.first) == 0; });
}

void Flags::reject_unknown() const {
    for (const auto& [name, value] : values_) {
        if (known_.count(name) == 0) {
            refuse("unknown flag --" + name);
        }
    }
}

}  // namespace natrp::bench

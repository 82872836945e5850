#pragma once
// Flags: `--name value` pairs of a bench tool. Unknown names, missing values and values out of range end the
// program with a sentence and exit code 2; a tool asks for every flag it knows before it calls
// reject_unknown().

#include <cstdint>
#include <map>
#include <set>
#include <string>

namespace natrp::bench {

class Flags {
public:
    // Reads argv from `first` on.
    Flags(int argc, char** argv, int first);

    std::string text(const std::string& name, const std::string& otherwise);
    std::string required(const std::string& name);
    std::string one_of(const std::string& name, const std::set<std::string>& allowed,
                       const std::string& otherwise);
    uint64_t count(const std::string& name, uint64_t otherwise, uint64_t least, uint64_t most);
    double number(const std::string& name, double otherwise, double least, double most);

    // For a second reader of the same flags: drops all but `names`; sets one.
    void keep_only(const std::set<std::string>& names);
    void set(const std::string& name, const std::string& value) { values_[name] = value; }

    // Call last: whatever nobody asked for is a mistake of the caller.
    void reject_unknown() const;

private:
    std::map<std::string, std::string> values_;
    std::set<std::string> known_;
};

// Prints "<program>: <sentence>" and exits with code 2.
[[noreturn]] void refuse(const std::string& sentence);

}  // namespace natrp::bench

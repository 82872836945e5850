// base/log.h
//
// One line per event on standard error: a sentence and its fields. Text: `session opened client=demo port=20000`;
// JSON: {"time":"…","level":"info","message":"session opened","client":"demo","port":20000}. spdlog does the
// writing; nobody else includes it.
//
// Where standard error is systemd's journal, which keeps time and level itself: `<6>info session opened …`, the level
// as sd-daemon(3) has it, and no time. JSON keeps both.
//
// A line that standard error does not take is lost and counted, and the log says so as soon as it takes lines again:
// `lines of this log were lost lines=3 why="nobody read them"`. Whoever logs does not wait for a reader that stands
// still (base/line_out.h).
//
// Thread   any. Never called on the data path: oddities there are counted (base/counters.h), not logged.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace natrp {

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

struct LogField {
  std::string_view key;
  std::string value;
  bool quoted = true;  // in JSON: a string, not a number

  LogField(std::string_view k, std::string_view v) : key(k), value(v) {}
  LogField(std::string_view k, const char* v) : key(k), value(v) {}
  LogField(std::string_view k, const std::string& v) : key(k), value(v) {}
  LogField(std::string_view k, int v) : key(k), value(std::to_string(v)), quoted(false) {}
  LogField(std::string_view k, unsigned v) : key(k), value(std::to_string(v)), quoted(false) {}
  LogField(std::string_view k, int64_t v) : key(k), value(std::to_string(v)), quoted(false) {}
  LogField(std::string_view k, uint64_t v) : key(k), value(std::to_string(v)), quoted(false) {}
};

// Called once by main before any thread starts.
void log_setup(LogLevel level, LogFormat format);
// Says how many lines were lost, when it can be said. For a daemon's tick: the next line may be long in coming.
void log_catch_up();
// Since the start.
uint64_t log_lines_lost();
// Whether it is the socket to systemd's journal (JOURNAL_STREAM in systemd.exec(5)).
bool is_journal(int fd);

void log_line(LogLevel level, std::string_view message, std::initializer_list<LogField> fields);
inline void log_debug(std::string_view m, std::initializer_list<LogField> f = {}) { log_line(LogLevel::kDebug, m, f); }
inline void log_info(std::string_view m, std::initializer_list<LogField> f = {}) { log_line(LogLevel::kInfo, m, f); }
inline void log_warning(std::string_view m, std::initializer_list<LogField> f = {}) {
  log_line(LogLevel::kWarning, m, f);
}
inline void log_error(std::string_view m, std::initializer_list<LogField> f = {}) { log_line(LogLevel::kError, m, f); }

}  // namespace natrp

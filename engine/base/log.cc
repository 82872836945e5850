#include "base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string_view>

#include "base/line_out.h"
#include "base/utf8.h"

namespace natrp {
namespace {

LogFormat g_format = LogFormat::kText;  // set once by log_setup, before threads
std::atomic<uint64_t> g_lines_lost{0};

std::string said(std::string_view message, std::initializer_list<LogField> fields);

// The number that syslog(3) and the journal have for a level.
class SyslogLevel final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& line, const std::tm&, spdlog::memory_buf_t& out) override {
    out.push_back(static_cast<char>('0' + number_of(line.level)));
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<SyslogLevel>(); }

 private:
  static int number_of(spdlog::level::level_enum level) {
    switch (level) {
      case spdlog::level::debug: return LOG_DEBUG;
      case spdlog::level::warn: return LOG_WARNING;
      case spdlog::level::err: return LOG_ERR;
      default: return LOG_INFO;
    }
  }
};

std::string pattern_of(LogFormat format, bool journal) {
  const std::string level = journal ? "<%*>" : "";
  if (format == LogFormat::kJson) return level + "{\"time\":\"%Y-%m-%dT%H:%M:%S.%e%z\",\"level\":\"%l\",%v";
  return journal ? level + "%l %v" : "%Y-%m-%dT%H:%M:%S.%e%z %l %v";
}

void set_pattern(spdlog::logger& logger, const std::string& pattern) {
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<SyslogLevel>('*').set_pattern(pattern);
  logger.set_formatter(std::move(formatter));
}

// Standard error, of which spdlog's own sink would wait for the reader.
class StderrSink final : public spdlog::sinks::base_sink<std::mutex> {
 private:
  void sink_it_(const spdlog::details::log_msg& line) override {
    // In their order: what is missing stands before the line that comes after it.
    if (tell_lost() && put(line)) return;
    if (lost_++ == 0) why_ = out_.error();
    g_lines_lost.fetch_add(1, std::memory_order_relaxed);
  }
  void flush_() override {
    if (out_.finish()) tell_lost();
  }
  bool tell_lost() {
    if (lost_ == 0) return true;
    const std::string why = why_ == EAGAIN ? "nobody read them" : std::strerror(why_);
    const std::string text = said("lines of this log were lost", {{"lines", lost_}, {"why", why}});
    if (!put({"natrp", spdlog::level::warn, text})) return false;
    lost_ = 0;
    return true;
  }
  bool put(const spdlog::details::log_msg& line) {
    spdlog::memory_buf_t text;
    formatter_->format(line, text);
    return out_.write({text.data(), text.size()});
  }

  LineOut out_{STDERR_FILENO};
  uint64_t lost_ = 0;  // and not told yet
  int why_ = 0;        // the first of them
};

spdlog::logger& logger() {
  static std::shared_ptr<spdlog::logger> instance = [] {
    auto made = std::make_shared<spdlog::logger>("natrp", std::make_shared<StderrSink>());
    set_pattern(*made, pattern_of(LogFormat::kText, is_journal(STDERR_FILENO)));
    return made;
  }();
  return *instance;
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarning: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
  }
  return spdlog::level::info;
}

// The bytes of what begins here and cannot stand in a line, or 0: a control character (those of C1 begin with 0xc2 in
// UTF-8: 0x9b is ESC [), or a byte that is no UTF-8, which JSON cannot hold, and for which the journal shows the whole
// line as a blob.
size_t unprintable_at(std::string_view text, size_t at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 0x20 || byte == 0x7f) return 1;
  const bool is_c1 = byte == 0xc2 && at + 1 < text.size() && (static_cast<unsigned char>(text[at + 1]) & 0xe0) == 0x80;
  if (is_c1) return 2;
  return utf8_bytes(text, at) == 0 ? 1 : 0;
}

// Keeps a hostile peer's text from forging a second log line, or from painting on the operator's terminal.
void append_printable(std::string& out, std::string_view text, bool in_quotes) {
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = unprintable_at(text, at);
    if (bytes == 0) {
      if (in_quotes && (text[at] == '"' || text[at] == '\\')) out += '\\';
      const size_t whole = utf8_bytes(text, at);
      out += text.substr(at, whole);
      at += whole;
      continue;
    }
    at += bytes;
    const unsigned last = static_cast<unsigned char>(text[at - 1]);
    char buffer[8];
    std::snprintf(buffer, sizeof buffer, "\\u%04x", bytes == 1 && last >= 0x80 ? 0xfffdu : last);
    out += buffer;
  }
}

// JSON string escape.
void append_escaped(std::string& out, std::string_view text) { append_printable(out, text, true); }

bool needs_quotes(std::string_view value) {
  if (value.empty()) return true;
  for (size_t at = 0; at < value.size(); at += utf8_bytes(value, at)) {
    const char c = value[at];
    if (unprintable_at(value, at) > 0 || c == ' ' || c == '"' || c == '\\' || c == '=') return true;
  }
  return false;
}

std::string text_line(std::string_view message, std::initializer_list<LogField> fields) {
  std::string line;
  append_printable(line, message, false);
  for (const LogField& field : fields) {
    line += ' ';
    line += field.key;
    line += '=';
    if (field.quoted && needs_quotes(field.value)) {
      line += '"';
      append_escaped(line, field.value);
      line += '"';
    } else {
      line += field.value;
    }
  }
  return line;
}

std::string json_tail(std::string_view message, std::initializer_list<LogField> fields) {
  std::string line = "\"message\":\"";
  append_escaped(line, message);
  line += '"';
  for (const LogField& field : fields) {
    line += ",\"";
    line += field.key;
    line += "\":";
    if (field.quoted) line += '"';
    append_escaped(line, field.value);
    if (field.quoted) line += '"';
  }
  line += '}';
  return line;
}

// What stands behind time and level.
std::string said(std::string_view message, std::initializer_list<LogField> fields) {
  return g_format == LogFormat::kJson ? json_tail(message, fields) : text_line(message, fields);
}

}  // namespace

void log_setup(LogLevel level, LogFormat format) {
  g_format = format;
  logger().set_level(to_spdlog(level));
  set_pattern(logger(), pattern_of(format, is_journal(STDERR_FILENO)));
}

void log_catch_up() { logger().flush(); }

uint64_t log_lines_lost() { return g_lines_lost.load(std::memory_order_relaxed); }

bool is_journal(int fd) {
  // DEVICE:INODE. Whoever points standard error elsewhere, and leaves the variable, is not mistaken for it.
  const char* stream = std::getenv("JOURNAL_STREAM");
  struct stat file;
  if (stream == nullptr || ::fstat(fd, &file) != 0) return false;
  return std::to_string(file.st_dev) + ':' + std::to_string(file.st_ino) == stream;
}

void log_line(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  const auto spd_level = to_spdlog(level);
  if (!logger().should_log(spd_level)) return;
  logger().log(spd_level, said(message, fields));
}

}  // namespace natrp

#include "admin/metrics.h"

#include <gtest/gtest.h>

namespace natrp {
namespace {

TEST(Metrics, ANameThatIsNoUtf8IsReplacedAndEndsNothing) {
  SessionInfo session;
  session.client = "home";
  session.software = "agent\xff\xc3";
  const std::string text = sessions_json({session});
  EXPECT_NE(text.find("\"software\": \"agent\xef\xbf\xbd"), std::string::npos) << text;
}

TEST(Metrics, EachTunnelIsALineOfItsFamiliesWithItsNamesInLabels) {
  SessionInfo one;
  one.client = "home";
  one.tunnels.push_back({"web", 1, 20000, {.visitors_total = 3, .visitors_refused = 1, .bytes_up = 10}});
  one.tunnels.push_back({"app", 2, 20001, {.visitors_total = 4, .bytes_down = 20}});
  SessionInfo two;
  two.client = "a \"b\" \\c\nd";
  two.tunnels.push_back({"web", 3, 20002, {.visitors_live = 5}});
  const Counters counters;
  SessionInfo ending;  // of a client "home" that was removed; the one above came with the new one's token
  ending.client = "home";
  ending.tunnels.push_back({"web", 4, 20003, {.visitors_total = 9}});
  const std::string text = prometheus_text({&counters}, 2, {ending, one, two});
  const auto times = [&](const std::string& part) {
    size_t count = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
    return count;
  };
  for (const char* line : {"# HELP natrp_tunnel_visitors_total ", "# TYPE natrp_tunnel_visitors_total counter\n",
                           "# TYPE natrp_tunnel_visitors_live gauge\n", "# TYPE natrp_tunnel_bytes_total counter\n",
                           "\nnatrp_tunnel_visitors_total{client=\"home\",tunnel=\"web\"} 3\n",
                           "\nnatrp_tunnel_visitors_total{client=\"home\",tunnel=\"app\"} 4\n",
                           "\nnatrp_tunnel_visitors_refused_total{client=\"home\",tunnel=\"web\"} 1\n",
                           "\nnatrp_tunnel_bytes_total{client=\"home\",tunnel=\"web\",direction=\"up\"} 10\n",
                           "\nnatrp_tunnel_bytes_total{client=\"home\",tunnel=\"app\",direction=\"down\"} 20\n",
                           "\nnatrp_tunnel_visitors_live{client=\"a \\\"b\\\" \\\\c\\nd\",tunnel=\"web\"} 5\n"}) {
    EXPECT_EQ(times(line), 1u) << line << "in\n" << text;
  }
  EXPECT_EQ(times("natrp_tunnel_bytes_total{"), 6u);
}

TEST(Metrics, WhichProgramThisIsAndSinceWhen) {
  EXPECT_EQ(process_text("0.1", 1234567890),
            "# HELP natrp_build_info 1, with the version of this program\n"
            "# TYPE natrp_build_info gauge\n"
            "natrp_build_info{version=\"0.1\"} 1\n"
            "# HELP process_start_time_seconds when this process started, in seconds since 1970\n"
            "# TYPE process_start_time_seconds gauge\n"
            "process_start_time_seconds 1234567890\n");
}

TEST(Metrics, SessionsAreReadAsTheyWereWritten) {
  SessionInfo session{.client = "home", .software = "natrp 1", .peer = "[::1]:5", .session = 7, .visitors_live = 1,
                      .visitors_total = 1ull << 40, .tunnels = {}};
  session.tunnels.push_back({"web", 3, 20000, {5, 4, 3, 1ull << 60, 1}});
  const auto read = sessions_from_json(sessions_json({session, {}}));
  ASSERT_TRUE(read && read->size() == 2);
  EXPECT_EQ(sessions_json(*read), sessions_json({session, {}}));
  EXPECT_EQ(read->front().tunnels.front().counts.bytes_up, 1ull << 60);
  for (const char* other : {"", "x", "{}", "[]", "{\"sessions\": 1}", "{\"sessions\": [{\"client\": 5}]}"}) {
    EXPECT_FALSE(sessions_from_json(other)) << other;
  }
}

TEST(Metrics, NoSessionsAreAnEmptyList) { EXPECT_EQ(sessions_json({}), "{\n  \"sessions\": []\n}\n"); }

}  // namespace
}  // namespace natrp

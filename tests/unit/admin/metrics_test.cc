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

TEST(Metrics, NoSessionsAreAnEmptyList) { EXPECT_EQ(sessions_json({}), "{\n  \"sessions\": []\n}\n"); }

}  // namespace
}  // namespace natrp

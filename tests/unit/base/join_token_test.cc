#include "base/join_token.h"

#include <gtest/gtest.h>

#include "control/auth.h"

namespace natrp {
namespace {

JoinToken random_token() {
  JoinToken token;
  random_bytes(token.secret);
  random_bytes(token.pin);
  return token;
}

std::string error_of(std::string_view text) {
  const Result<JoinToken> token = parse_join_token(text);
  return token ? "" : token.error().message;
}

TEST(JoinToken, IsReadAsItWasWritten) {
  for (int i = 0; i < 200; ++i) {
    const JoinToken token = random_token();
    const std::string text = format_join_token(token);
    EXPECT_EQ(text.size(), 92u);
    const Result<JoinToken> read = parse_join_token(" " + text + "\r\n");
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(read.value().secret, token.secret);
    EXPECT_EQ(read.value().pin, token.pin);
  }
}

TEST(JoinToken, IsBase64UrlWithoutPadding) {
  JoinToken token{};
  EXPECT_EQ(format_join_token(token), "ntrp1_" + std::string(86, 'A'));
  token.secret.fill(0xff);
  token.pin.fill(0xff);
  EXPECT_EQ(format_join_token(token), "ntrp1_" + std::string(85, '_') + "w");
}

TEST(JoinToken, RefusesWhatIsNoTokenAndSaysWhatToDo) {
  EXPECT_NE(error_of("").find("empty"), std::string::npos);
  EXPECT_NE(error_of(" \n").find("empty"), std::string::npos);
  EXPECT_NE(error_of("hello").find("begins with \"ntrp1_\""), std::string::npos);
  EXPECT_NE(error_of("NTRP1_" + std::string(86, 'A')).find("begins with"), std::string::npos);
  EXPECT_NE(error_of("ntrp1_").find("copy it again"), std::string::npos);
  EXPECT_NE(error_of("ntrp1_" + std::string(85, 'A')).find("91 characters instead of 92"), std::string::npos);
  EXPECT_NE(error_of("ntrp1_" + std::string(87, 'A')).find("93 characters instead of 92"), std::string::npos);
}

TEST(JoinToken, RefusesAForeignCharacterAnywhereAndNamesItsPlace) {
  const std::string good = format_join_token(random_token());
  for (size_t at = 6; at < good.size(); ++at) {
    for (const char bad : {'+', '/', '=', ' ', '\0', '\xff'}) {
      if (bad == ' ' && at == good.size() - 1)
        continue;  // a space at the end is ignored: the length is wrong then
      std::string text = good;
      text[at] = bad;
      EXPECT_NE(error_of(text).find("character " + std::to_string(at + 1) + " "), std::string::npos) << at;
    }
  }
}

TEST(JoinToken, RefusesALastCharacterWithBitsThatNobodyWrote) {
  std::string text = format_join_token(JoinToken{});
  text.back() = 'B';
  EXPECT_NE(error_of(text).find("last character"), std::string::npos);
}

TEST(JoinToken, AnErrorNeverRepeatsTheToken) {
  std::string text = format_join_token(random_token());
  const std::string middle = text.substr(20, 20);
  text[50] = '!';
  EXPECT_EQ(error_of(text).find(middle), std::string::npos);
  EXPECT_EQ(error_of(text.substr(0, 60)).find(middle), std::string::npos);
}

TEST(Pin, IsReadAsItWasWrittenInEitherCase) {
  Pin pin;
  random_bytes(pin);
  std::string text = format_pin(pin);
  EXPECT_EQ(text.size(), 71u);
  ASSERT_TRUE(parse_pin(text));
  EXPECT_EQ(parse_pin(text).value(), pin);
  for (size_t i = 7; i < text.size(); ++i) text[i] = static_cast<char>(std::toupper(text[i]));
  ASSERT_TRUE(parse_pin(text));
  EXPECT_EQ(parse_pin(text).value(), pin);
}

TEST(Pin, RefusesAnotherHashALostDigitAndAForeignCharacter) {
  EXPECT_FALSE(parse_pin(""));
  EXPECT_FALSE(parse_pin(std::string(64, '0')));
  EXPECT_FALSE(parse_pin("sha1:" + std::string(64, '0')));
  EXPECT_FALSE(parse_pin("sha256:" + std::string(63, '0')));
  EXPECT_FALSE(parse_pin("sha256:" + std::string(65, '0')));
  EXPECT_FALSE(parse_pin("sha256:" + std::string(63, '0') + "g"));
}

}  // namespace
}  // namespace natrp

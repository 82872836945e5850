// control/join_token.h
//
// base/join_token.h, by the name that it had while only the control path read tokens.
#pragma once

#include "base/join_token.h"

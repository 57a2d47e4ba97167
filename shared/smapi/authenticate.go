package smapi

import "github.com/latchkey-fn/latchkey/shared/auth"

func authMessage(err error) string { return auth.Message(err) }

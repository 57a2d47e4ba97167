//go:build !cgo || windows

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "latchkey-pkcs11 was built without cgo, so it cannot load a PKCS#11 library; "+
		"build it with CGO_ENABLED=1 and a C compiler: go build -o latchkey-pkcs11 ./providers/keys/pkcs11/helper")
	os.Exit(1)
}

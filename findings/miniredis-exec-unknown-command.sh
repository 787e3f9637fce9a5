#!/usr/bin/env bash
# miniredis 2.40.0 (Go module github.com/alicebob/miniredis/v2): an unknown command within MULTI does not discard the transaction.
#
# Expected: EXECABORT, and nothing is written, once a command could not be queued (Redis documentation, Transactions). So it is in
# miniredis after a wrong number of arguments.
# Seen: after MULTI, an unknown command, and SET, EXEC answers an array of one OK and the key is set.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat >main.go <<'GO'
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/alicebob/miniredis/v2"
)

func transaction(bad string) string {
	server, err := miniredis.Run()
	if err != nil {
		panic(err)
	}
	defer server.Close()
	stream, err := net.Dial("tcp", server.Addr())
	if err != nil {
		panic(err)
	}
	defer stream.Close()
	fmt.Fprintf(stream, "*1\r\n$5\r\nMULTI\r\n*1\r\n$3\r\n%s\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*1\r\n$4\r\nEXEC\r\n", bad)
	lines := bufio.NewReader(stream)
	var exec string
	for range 4 {
		line, err := lines.ReadString('\n')
		if err != nil {
			panic(err)
		}
		exec = strings.Fields(line)[0]
	}
	return fmt.Sprintf("%s exists=%v", exec, server.Exists("k"))
}

func main() {
	arity, unknown := transaction("GET"), transaction("FOO")
	fmt.Printf("EXEC after GET without a key: %s; after an unknown command: %s\n", arity, unknown)
	if arity != "-EXECABORT exists=false" || unknown != "*1 exists=true" {
		os.Exit(1)
	}
}
GO
go mod init finding 2>/dev/null
go get github.com/alicebob/miniredis/v2@v2.40.0 2>/dev/null
go run .

//go:build tools

// Package tools pins the release of kwok whose command is built as it is and whose stages are read.
package tools

import _ "sigs.k8s.io/kwok/cmd/kwok"

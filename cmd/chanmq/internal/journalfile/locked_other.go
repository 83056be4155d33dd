//go:build !linux

package journalfile

import "io/fs"

func lockOf(string, fs.FileInfo) Locked { return Unknown }

// OwnNamespace returns 0: there are no IPC namespaces here.
func OwnNamespace() uint64 { return 0 }

// NamespaceOf returns 0.
func NamespaceOf(string) uint64 { return 0 }

// OnTmpfs returns false.
func OnTmpfs(string) bool { return false }

// OwnerOf returns -1.
func OwnerOf(fs.FileInfo) int { return -1 }

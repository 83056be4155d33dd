//go:build !unix

package procinfo

func lives(int) bool { return false }

//go:build !linux

package main

import "os"

func isPipe(*os.File) bool { return false }

func readerGone(*os.File, int) bool { return false }

// signalled opens a file for writing N times while it is sent SIGURG a thousand times a second, and counts
// what failed: under the observer, every open must still succeed.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: signalled COUNT PATH")
		os.Exit(2)
	}
	count, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	var received atomic.Int64
	signals := make(chan os.Signal, 4096)
	signal.Notify(signals, syscall.SIGUSR1)
	go func() {
		for range signals {
			received.Add(1)
		}
	}()
	go func() {
		for range time.Tick(time.Millisecond) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGUSR1)
		}
	}()
	failed := 0
	begin := time.Now()
	// At least COUNT opens, and at least one second, so that signals and opens meet.
	opens := 0
	for ; opens < count || time.Since(begin) < time.Second; opens++ {
		file, err := os.OpenFile(os.Args[2], os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			failed++
			if failed == 1 {
				fmt.Println("first error:", err)
			}
			continue
		}
		_ = file.Close()
	}
	fmt.Printf("opens %d failed %d signals %d\n", opens, failed, received.Load())
	if failed > 0 {
		os.Exit(1)
	}
}

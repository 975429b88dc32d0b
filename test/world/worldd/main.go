// Worldd runs the servers of package world; scripts/world starts it inside the network namespace.
//
//	worldd addresses                  print the addresses that must lead to the namespace itself
//	worldd own                        print the addresses that lo must have
//	worldd serve SOCKET [NAMESERVER…] run until SIGTERM; prints "ready" on standard output
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"terok/test/world"
)

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "addresses":
		for _, a := range world.Addresses() {
			fmt.Println(a)
		}
	case len(os.Args) == 2 && os.Args[1] == "own":
		for _, a := range world.Own() {
			fmt.Println(a)
		}
	case len(os.Args) >= 3 && os.Args[1] == "serve":
		if err := serve(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "worldd:", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: worldd addresses | own | serve SOCKET [NAMESERVER…]")
		os.Exit(2)
	}
}

func serve(socket string, nameservers []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	w, err := world.Start(world.Config{Nameservers: nameservers})
	if err != nil {
		return err
	}
	defer w.Close()
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	// The tests run as another user; the socket's directory belongs to this run alone.
	if err := os.Chmod(socket, 0o666); err != nil {
		return err
	}
	fmt.Println("ready")
	return w.ServeControl(ctx, l)
}

package auth

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	now := time.Unix(0, 0)
	l := NewLimiter(60, 3, func() time.Time { return now })
	allowed := func(address string, tries int) (n int) {
		for range tries {
			if l.Allow(address) {
				n++
			}
		}
		return n
	}
	if n := allowed("192.0.2.1:1000", 10); n != 3 {
		t.Errorf("%d failures were told at once", n)
	}
	if n := allowed("192.0.2.1", 1) + allowed("[::ffff:192.0.2.1]:7", 1); n != 0 {
		t.Error("another port, or another way to write it, is another client")
	}
	if n := allowed("192.0.2.2", 10); n != 3 {
		t.Error("a neighbour pays for it")
	}
	now = now.Add(2 * time.Second)
	if n := allowed("192.0.2.1", 10); n != 2 {
		t.Errorf("%d failures were told two seconds later, at one a second", n)
	}
	if n := allowed("2001:db8::1", 10) + allowed("[2001:db8::ffff:2%eth0]:9", 10); n != 3 {
		t.Error("a /64 is more than one client")
	}
	if n := allowed("2001:db8:0:1::1", 10); n != 3 {
		t.Error("two /64 are one client")
	}
	if n := allowed("", 10) + allowed("unix", 10); n != 3 {
		t.Error("what is no address is more than one client")
	}
}

func TestLimiterForgets(t *testing.T) {
	now := time.Unix(0, 0)
	l := NewLimiter(1, 1, func() time.Time { return now })
	for i := range 5 * maxAddresses {
		l.Allow(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
		if i%100 == 0 && l.Allow("192.0.2.1") && i > 0 {
			t.Fatal("a client that keeps failing was forgotten")
		}
		if n := len(l.newer) + len(l.older); n > maxAddresses {
			t.Fatalf("%d addresses are kept", n)
		}
	}
}

func TestLimiterConcurrently(t *testing.T) {
	l := NewLimiter(60, 100, nil)
	var group sync.WaitGroup
	for i := range 10 {
		group.Go(func() {
			for j := range 1000 {
				l.Allow(fmt.Sprintf("10.0.%d.%d", i, j%256))
			}
		})
	}
	group.Wait()
}

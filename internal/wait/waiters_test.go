package wait

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
)

// TestWaitersIndex compares the index with a list that is searched.
func TestWaitersIndex(t *testing.T) {
	type entry struct {
		key Key
		w   *Waiter
	}
	const steps, types = 3000, 4
	h := newHandle(t)
	keys := []Key{{Type: 0}, {Type: -2}, {Type: -3}, {Mode: 1, Type: 2}, {Mode: 2, Type: 2}}
	for typ := range int64(types) {
		keys = append(keys, Key{Exact: true, Type: typ + 1}, Key{Exact: true, Type: typ + 1, Leased: true})
	}
	for size := range 3 {
		keys = append(keys, Key{Send: true, Size: size})
	}
	var ws waiters
	var list []entry // oldest first
	find := func(key Key, w *Waiter) int { return slices.Index(list, entry{key, w}) }
	among := func(keep func(entry) bool) map[*Waiter]bool {
		set := make(map[*Waiter]bool)
		for _, e := range list {
			if keep(e) {
				set[e.w] = true
			}
		}
		return set
	}
	wantSet := func(what string, got []*Waiter, want map[*Waiter]bool) {
		t.Helper()
		set := make(map[*Waiter]bool)
		for _, w := range got {
			set[w] = true
		}
		if len(got) != len(set) || !maps.Equal(set, want) {
			t.Fatalf("%s: %d waits, %d of them different, want %d", what, len(got), len(set), len(want))
		}
	}
	for step := range steps {
		key := keys[rand.N(len(keys))]
		if rand.N(2) == 0 && len(list) < 20 { // several with the same key, as where the kernel is remote
			w := new(Waiter)
			w.Init(h.lot, h.receive(step%3), &h.spinner)
			ws.add(key, w)
			list = append(list, entry{key, w})
		} else if len(list) > 0 {
			e := list[rand.N(len(list))]
			if rand.N(4) == 0 {
				e.w = new(Waiter) // another one with that key
			}
			i := find(e.key, e.w)
			if got := ws.has(e.key, e.w); got != (i >= 0) {
				t.Fatalf("has: %v", got)
			}
			if got := ws.remove(e.key, e.w); got != (i >= 0) {
				t.Fatalf("remove: %v", got)
			}
			if i >= 0 {
				list = slices.Delete(list, i, i+1)
			}
		}
		if ws.len() != len(list) {
			t.Fatalf("len: %d, want %d", ws.len(), len(list))
		}
		all := ws.all()
		wantSet("all", all, among(func(entry) bool { return true }))
		var sends []*Waiter
		for _, e := range list {
			if e.key.Send {
				sends = append(sends, e.w)
			}
		}
		if !slices.Equal(all[len(all)-len(sends):], sends) {
			t.Fatal("all: the sends are not the last ones, oldest first")
		}
		some := make(map[int64]bool)
		for typ := range int64(types) {
			if rand.N(2) == 0 {
				some[typ+1] = true
			}
		}
		wantSet("receiving", ws.receiving(some), among(func(e entry) bool {
			return !e.key.Send && (!e.key.Exact || some[e.key.Type])
		}))
	}
}

// TestWakeAsksOnlyWaitsThatMayMatch: a hand-back costs no look at the slot for waits
// of other types, however many they are and wherever they wait.
func TestWakeAsksOnlyWaitsThatMayMatch(t *testing.T) {
	const others, handBacks = 128, 1000
	for name, way := range map[string]func(*Config){
		"parked": func(c *Config) { c.MaxParked = others + 2 },
		"polled": pollsHourly,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHandle(t, way)
				h.setSize(1)
				h.put(9999, 1) // of somebody else: the queue is full
				var rest []*operation
				for n := range others {
					o := h.receive(100 + n)
					o.start(t.Context())
					rest = append(rest, &o.operation)
				}
				send, upTo := h.send(1), h.receive(-99)
				send.start(t.Context())
				upTo.start(t.Context())
				rest = append(rest, &send.operation)
				synctest.Wait()
				count := func() (asked int64) {
					for _, o := range rest {
						asked += o.asked.Load() + o.tries.Load()
					}
					return asked
				}
				before, beforeUpTo := count(), upTo.asked.Load()
				for range handBacks {
					h.lot.Wake(1)
				}
				synctest.Wait()
				if asked := count() - before; asked != 0 {
					t.Errorf("waits for other types, and a send, were asked or tried %d times by %d hand-backs", asked, handBacks)
				}
				if asked := upTo.asked.Load() - beforeUpTo; asked != handBacks {
					t.Errorf("a wait for types up to 99 was asked %d times by %d hand-backs", asked, handBacks)
				}
			})
		})
	}
}

// TestWakeEndsAWaitForTheType, and those for several types, and no other.
func TestWakeEndsAWaitForTheType(t *testing.T) {
	for _, typ := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(typ), func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *handle) {
				waits := make(map[int]*receive)
				ended := make(map[int]<-chan error)
				for _, msgtyp := range []int{1, 2, 3, -2} {
					waits[msgtyp] = h.receive(msgtyp)
					ended[msgtyp] = waits[msgtyp].waiting(t.Context())
				}
				tries := func() (list []int) {
					for _, msgtyp := range []int{1, 2, 3, -2} {
						list = append(list, int(waits[msgtyp].tries.Load()))
					}
					return list
				}
				before := tries()
				h.handBack(message{typ, 1, 1})
				synctest.Wait()
				done := 0
				for i, n := range tries() {
					msgtyp := []int{1, 2, 3, -2}[i]
					matches := msgtyp == typ || msgtyp < 0 && typ <= -msgtyp
					if n != before[i] && !matches {
						t.Errorf("a wait for %d tried because of a message of type %d", msgtyp, typ)
					}
					select {
					case <-ended[msgtyp]:
						done++
						if !matches {
							t.Errorf("a wait for %d has ended", msgtyp)
						}
					default:
					}
				}
				if done != 1 {
					t.Errorf("%d waits have ended, want 1", done)
				}
			})
		})
	}
}

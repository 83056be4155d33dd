package sysvtest

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

var getRules = []rule{
	{"a private queue is a new one each time", "ipcget_new", func(t *testing.T, m Machine) {
		a, b := private(t, m), private(t, m)
		if a.id == b.id {
			t.Fatalf("two private queues have the id %d", a.id)
		}
		a.send(1, "a")
		b.holds()
	}},
	{"a new queue is the caller's, empty, with the mode and msgmnb", "newque", func(t *testing.T, m Machine) {
		limits, err := m.Limits()
		equal(t, err, nil, "Limits")
		began := time.Now().Unix()
		key := freeKey(t, m)
		q := get(t, m, key, 0o640)
		st := q.stat()
		q.hasState(sysv.Stat{
			ID:         q.id,
			Key:        key,
			Attr:       sysv.Attr{UID: st.UID, GID: st.GID, Mode: 0o640, MaxBytes: uint64(limits.MaxBytes)},
			CreatorUID: st.UID, // permissionRules check which user that is
			CreatorGID: st.GID,
			ChangeTime: justNow,
		}, began)
	}},
	{"a key leads to the same queue each time", "ipcget_public", func(t *testing.T, m Machine) {
		key := freeKey(t, m)
		q := get(t, m, key, 0o600)
		for _, flags := range []int{0, 0o600, sysv.Create | 0o600, sysv.Exclusive} {
			id, err := m.Get(key, flags)
			equal(t, err, nil, "Get with flags %#o", flags)
			equal(t, id, q.id, "id with flags %#o", flags)
		}
	}},
	{"a key without a queue is ENOENT, unless Create is given", "ipcget_public", func(t *testing.T, m Machine) {
		for _, flags := range []int{0, 0o600, sysv.Exclusive | 0o600} {
			id, err := m.Get(freeKey(t, m), flags)
			equal(t, err, error(sysv.ENOENT), "Get with flags %#o", flags)
			equal(t, id, -1, "id")
		}
	}},
	{"Create and Exclusive are EEXIST for a key with a queue", "ipcget_public", func(t *testing.T, m Machine) {
		key := freeKey(t, m)
		get(t, m, key, sysv.Exclusive|0o600)
		_, err := m.Get(key, sysv.Create|sysv.Exclusive|0o600)
		equal(t, err, error(sysv.EEXIST), "Get")
	}},
	{"a negative key is a valid key", "ftok(3) returns them from proj_id 128", func(t *testing.T, m Machine) {
		key := -freeKey(t, m)
		q := get(t, m, key, 0o600)
		equal(t, q.stat().Key, key, "key")
	}},
	{"the key of a removed queue creates a new queue, with another id", "ipc_rmid", func(t *testing.T, m Machine) {
		key := freeKey(t, m)
		old := get(t, m, key, 0o600)
		old.send(1, "lost")
		equal(t, m.Remove(old.id), nil, "Remove")
		_, err := m.Get(key, 0)
		equal(t, err, error(sysv.ENOENT), "Get of the removed key")
		q := get(t, m, key, 0o600)
		if q.id == old.id {
			t.Errorf("the id %d was reused", q.id)
		}
		q.holds()
	}},
	{"the id of a removed queue is not reused soon", "ipc_idr_alloc", func(t *testing.T, m Machine) {
		seen := make(map[int]bool)
		for range 200 {
			q := private(t, m)
			if seen[q.id] {
				t.Fatalf("the id %d was reused", q.id)
			}
			seen[q.id] = true
			if len(seen)%3 != 0 { // some queues remain
				equal(t, m.Remove(q.id), nil, "Remove")
			}
		}
	}},
}

var sendRules = []rule{
	{"the caller may reuse its buffer after Send", "load_msg", func(t *testing.T, m Machine) {
		q := private(t, m)
		msg := Message(1, "abc")
		equal(t, m.Send(q.id, msg), nil, "Send")
		sysv.PutType(msg, 2)
		copy(msg[sysv.HeaderSize:], "xyz")
		q.holds(Result{Type: 1, Text: "abc"})
	}},
	{"messages are received as they were sent", "msgop(2)", func(t *testing.T, m Machine) {
		q := private(t, m)
		var sent []Result
		for i, typ := range []int{1, 2, 1 << 20, int(sysv.MaxType)} {
			sent = append(sent, Result{Type: typ, Text: strings.Repeat("\x00ÿa\n", i)})
			q.send(typ, sent[i].Text)
		}
		q.holds(sent...)
	}},
	{"a type below 1 is EINVAL", "do_msgsnd", func(t *testing.T, m Machine) {
		q := private(t, m)
		for _, typ := range []int{0, -1, math.MinInt} {
			equal(t, q.trySend(typ, "x"), error(sysv.EINVAL), "Send with type %d", typ)
		}
		q.holds()
	}},
	{"a text of msgmax bytes is sent, a longer one is EINVAL", "do_msgsnd", func(t *testing.T, m Machine) {
		limits, err := m.Limits()
		equal(t, err, nil, "Limits")
		if limits.MaxMessage > limits.MaxBytes {
			t.Skipf("msgmax %d is greater than msgmnb %d here", limits.MaxMessage, limits.MaxBytes)
		}
		q := private(t, m)
		longest := strings.Repeat("x", limits.MaxMessage)
		equal(t, q.trySend(1, longest+"x"), error(sysv.EINVAL), "msgmax+1 bytes")
		q.send(1, longest)
		equal(t, q.tryReceive(len(longest), 0, 0), Result{Type: 1, Text: longest}, "msgmax bytes")
	}},
	{"a queue holds msg_qbytes bytes of text", "msg_fits_inqueue", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.set(func(a *sysv.Attr) { a.MaxBytes = 8 })
		q.send(1, "12345")
		equal(t, q.trySend(1, "1234"), error(sysv.EAGAIN), "4 bytes where 3 fit")
		q.send(1, "123")
		equal(t, q.trySend(1, "1"), error(sysv.EAGAIN), "1 byte where none fits")
		q.send(1, "") // an empty message counts as a message only
		q.holds(Result{Type: 1, Text: "12345"}, Result{Type: 1, Text: "123"}, Result{Type: 1})
	}},
	{"a queue holds msg_qbytes messages, empty ones too", "msg_fits_inqueue", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.set(func(a *sysv.Attr) { a.MaxBytes = 2 })
		q.send(1, "")
		q.send(2, "")
		equal(t, q.trySend(3, ""), error(sysv.EAGAIN), "the third message")
		equal(t, q.tryReceive(0, 0, 0), Result{Type: 1}, "the first message")
		q.send(3, "")
		q.holds(Result{Type: 2}, Result{Type: 3})
	}},
	{"a queue of size 0 takes no message, not even an empty one", "msg_fits_inqueue", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.set(func(a *sysv.Attr) { a.MaxBytes = 0 })
		equal(t, q.trySend(1, ""), error(sysv.EAGAIN), "Send to a queue of size 0")
		q.holds()
	}},
}

var receiveRules = []rule{
	{"msgtyp and Except select the message", "convert_mode, testmsg, find_msg", func(t *testing.T, m Machine) {
		sent := []int{3, 1, 4, 1, 5, 2, 6, 5, 3}
		for _, c := range []struct {
			msgtyp, flags int
			order         []int // indexes into sent
		}{
			{0, 0, []int{0, 1, 2, 3, 4, 5, 6, 7, 8}},
			{1, 0, []int{1, 3}},
			{5, 0, []int{4, 7}},
			{7, 0, nil},
			{math.MaxInt, 0, nil},
			{-1, 0, []int{1, 3}},
			{-3, 0, []int{1, 3, 5, 0, 8}},
			{-9, 0, []int{1, 3, 5, 0, 8, 2, 4, 7, 6}},
			{-math.MaxInt, 0, []int{1, 3, 5, 0, 8, 2, 4, 7, 6}},
			{math.MinInt, 0, []int{1, 3, 5, 0, 8, 2, 4, 7, 6}},
			{1, sysv.Except, []int{0, 2, 4, 5, 6, 7, 8}},
			{7, sysv.Except, []int{0, 1, 2, 3, 4, 5, 6, 7, 8}},
			{0, sysv.Except, []int{0, 1, 2, 3, 4, 5, 6, 7, 8}},
			{-3, sysv.Except, []int{1, 3, 5, 0, 8}}, // Except has no effect on a negative msgtyp
		} {
			q := private(t, m)
			for i, typ := range sent {
				q.send(typ, string(rune('0'+i)))
			}
			left := make([]int, len(sent))
			for i := range left {
				left[i] = i
			}
			for _, i := range c.order {
				equal(t, q.tryReceive(room, c.msgtyp, c.flags), Result{Type: sent[i], Text: string(rune('0' + i))},
					"Receive(%d, %#o)", c.msgtyp, c.flags)
				left = slices.DeleteFunc(left, func(j int) bool { return j == i })
			}
			equal(t, q.tryReceive(room, c.msgtyp, c.flags), Result{Err: sysv.ENOMSG},
				"Receive(%d, %#o) of the rest", c.msgtyp, c.flags)
			var rest []Result
			for _, i := range left {
				rest = append(rest, Result{Type: sent[i], Text: string(rune('0' + i))})
			}
			q.holds(rest...)
		}
	}},
	{"a message longer than the buffer is E2BIG and stays", "do_msgrcv", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.send(2, "12345")
		q.send(1, "")
		for _, room := range []int{0, 1, 4} {
			equal(t, q.tryReceive(room, 2, 0), Result{Err: sysv.E2BIG}, "room for %d bytes", room)
		}
		equal(t, q.tryReceive(5, 2, 0), Result{Type: 2, Text: "12345"}, "room for 5 bytes")
		equal(t, q.tryReceive(0, 1, 0), Result{Type: 1}, "no room, for an empty message")
	}},
	{"E2BIG comes with the size of the message, or with 0 if that is not known", "Kernel.Receive", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.send(1, "12345")
		isKnown := func(n int, err error) {
			t.Helper()
			equal(t, err, error(sysv.E2BIG), "Receive")
			if n != 0 && n != 5 {
				t.Errorf("it returned %d for a message of 5 bytes", n)
			}
		}
		for _, room := range []int{0, 4} {
			isKnown(m.Receive(q.id, sysv.Buffer(room), 0, 0))
			Start(t, m.self, func(_ sysv.Kernel, th sysv.Thread) Result {
				isKnown(th.Receive(q.id, sysv.Buffer(room), 0, 0))
				return Result{}
			}).Result()
		}
		q.holds(Result{Type: 1, Text: "12345"})
	}},
	{"a message that is too long is not skipped for another", "find_msg", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.send(2, "long")
		q.send(2, "")
		q.send(1, "long")
		for _, msgtyp := range []int{0, 2, -2} {
			equal(t, q.tryReceive(1, msgtyp, 0), Result{Err: sysv.E2BIG}, "Receive(%d)", msgtyp)
		}
		q.holds(Result{Type: 2, Text: "long"}, Result{Type: 2}, Result{Type: 1, Text: "long"})
	}},
	{"a buffer may be longer than msgmax", "do_msgrcv", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.send(1, "x")
		equal(t, q.tryReceive(1<<20, 0, 0), Result{Type: 1, Text: "x"}, "Receive")
	}},
}

var copyRules = []rule{
	{"Copy returns the message at a position, counted from 0, of any type", "find_msg, SEARCH_NUMBER", func(t *testing.T, m Machine) {
		q := copyQueue(t, m)
		sent := []Result{{Type: 3, Text: "a"}, {Type: 1, Text: "bc"}, {Type: 2, Text: ""}}
		for _, s := range sent {
			q.send(s.Type, s.Text)
		}
		before := q.stat()
		for _, i := range []int{2, 0, 1, 1} {
			equal(t, q.tryReceive(room, i, sysv.Copy), sent[i], "position %d", i)
		}
		for _, i := range []int{3, math.MaxInt, -1, math.MinInt} {
			equal(t, q.tryReceive(room, i, sysv.Copy), Result{Err: sysv.ENOMSG}, "position %d", i)
		}
		equal(t, q.stat(), before, "Stat after Copy")
		q.holds(sent...)
	}},
	{"Copy returns E2BIG for a message longer than the buffer", "do_msgrcv", func(t *testing.T, m Machine) {
		q := copyQueue(t, m)
		q.send(1, "12345")
		q.send(1, "")
		for _, room := range []int{0, 4} {
			equal(t, q.tryReceive(room, 0, sysv.Copy), Result{Err: sysv.E2BIG}, "room for %d bytes", room)
		}
		equal(t, q.tryReceive(5, 0, sysv.Copy), Result{Type: 1, Text: "12345"}, "room for 5 bytes")
		equal(t, q.tryReceive(0, 1, sysv.Copy), Result{Type: 1}, "no room, for an empty message")
	}},
	{"Copy with Except is EINVAL", "do_msgrcv", func(t *testing.T, m Machine) {
		q := copyQueue(t, m)
		q.send(1, "x")
		equal(t, q.tryReceive(room, 0, sysv.Copy|sysv.Except), Result{Err: sysv.EINVAL}, "Receive")
	}},
	{"Copy in a blocking call is EINVAL", "do_msgrcv", func(t *testing.T, m Machine) {
		q := copyQueue(t, m)
		q.send(1, "x")
		c := Start(t, m.self, func(_ sysv.Kernel, th sysv.Thread) Result {
			return Receive(th.Receive, q.id, room, 0, sysv.Copy)
		})
		equal(t, c.Result(), Result{Err: sysv.EINVAL}, "Receive of a Thread")
	}},
}

// copyQueue returns a queue of a kernel that has MSG_COPY.
func copyQueue(t *testing.T, m Machine) queue {
	t.Helper()
	q := private(t, m)
	if q.tryReceive(room, 0, sysv.Copy).Err == sysv.ENOSYS {
		t.Skip("this kernel was built without CONFIG_CHECKPOINT_RESTORE: MSG_COPY is ENOSYS")
	}
	return q
}

var controlRules = []rule{
	{"Stat has the counts, and the process and time of the last send and receive", "do_msgsnd, do_msgrcv", func(t *testing.T, m Machine) {
		began := time.Now().Unix()
		q := private(t, m)
		st := q.stat()
		q.send(1, "abc")
		q.send(2, "de")
		st.Messages, st.Bytes, st.SendPID, st.SendTime = 2, 5, m.PID, justNow
		q.hasState(st, began)
		equal(t, q.tryReceive(room, 2, 0), Result{Type: 2, Text: "de"}, "Receive")
		st.Messages, st.Bytes, st.ReceivePID, st.ReceiveTime = 1, 3, m.PID, justNow
		q.hasState(st, began)
	}},
	{"a call that fails does not change Stat", "do_msgsnd, do_msgrcv", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.set(func(a *sysv.Attr) { a.MaxBytes = 1 })
		before := q.stat()
		equal(t, q.trySend(1, "xx"), error(sysv.EAGAIN), "Send")
		equal(t, q.tryReceive(room, 0, 0), Result{Err: sysv.ENOMSG}, "Receive")
		equal(t, q.stat(), before, "Stat")
	}},
	{"Set changes owner, group, mode and size, and nothing else", "msgctl_down, ipc_update_perm", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.send(1, "x")
		began := time.Now().Unix()
		st := q.stat()
		// A user other than root could not remove the queue after giving it
		// away: permissionRules change the ids.
		st.Mode, st.MaxBytes = 0o777, 100
		q.set(func(a *sysv.Attr) { *a = st.Attr; a.Mode |= 0o7000 })
		st.ChangeTime = justNow
		q.hasState(st, began)
	}},
	{"a size below the bytes in the queue loses no message", "msgctl_down", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.send(1, "abc")
		q.send(1, "def")
		q.set(func(a *sysv.Attr) { a.MaxBytes = 3 })
		equal(t, q.trySend(1, ""), error(sysv.EAGAIN), "Send of an empty message to an overfull queue")
		q.holds(Result{Type: 1, Text: "abc"}, Result{Type: 1, Text: "def"})
	}},
	{"user -1 and group -1 cannot own a queue", "ipc_update_perm", func(t *testing.T, m Machine) {
		q := private(t, m)
		before := q.stat()
		equal(t, q.trySet(func(a *sysv.Attr) { a.UID = math.MaxUint32 }), error(sysv.EINVAL), "Set with uid -1")
		equal(t, q.trySet(func(a *sysv.Attr) { a.GID = math.MaxUint32 }), error(sysv.EINVAL), "Set with gid -1")
		equal(t, q.stat(), before, "Stat")
	}},
	{"every call is EINVAL for the id of a removed queue, or one that never existed", "ipc_obtain_object_check", func(t *testing.T, m Machine) {
		gone := private(t, m)
		gone.send(1, "x")
		equal(t, m.Remove(gone.id), nil, "Remove")
		for range 3 {
			private(t, m) // must not be taken for the removed one
		}
		for _, id := range []int{gone.id, -1, math.MinInt32, math.MaxInt32} {
			q := queue{t, m, id}
			equal(t, q.trySend(1, "x"), error(sysv.EINVAL), "Send to %d", id)
			equal(t, q.tryReceive(room, 0, 0), Result{Err: sysv.EINVAL}, "Receive from %d", id)
			_, err := m.Stat(id)
			equal(t, err, error(sysv.EINVAL), "Stat of %d", id)
			equal(t, m.Set(id, sysv.Attr{}), error(sysv.EINVAL), "Set of %d", id)
			equal(t, m.Remove(id), error(sysv.EINVAL), "Remove of %d", id)
			equal(t, Start(t, m.self, func(_ sysv.Kernel, th sysv.Thread) Result {
				return Receive(th.Receive, id, room, 0, 0)
			}).Result(), Result{Err: sysv.EINVAL}, "blocking Receive from %d", id)
			equal(t, Start(t, m.self, func(_ sysv.Kernel, th sysv.Thread) Result {
				return Result{Err: th.Send(id, Message(1, "x"))}
			}).Result(), Result{Err: sysv.EINVAL}, "blocking Send to %d", id)
		}
	}},
	{"List returns every queue, as Stat does", "msgctl_stat", func(t *testing.T, m Machine) {
		a, b := private(t, m), private(t, m)
		gone := private(t, m)
		equal(t, m.Remove(gone.id), nil, "Remove")
		a.send(7, "seven")
		b.send(8, "")
		list, err := m.List()
		equal(t, err, nil, "List")
		found := make(map[int]sysv.Stat)
		for _, st := range list {
			found[st.ID] = st
		}
		equal(t, len(found), len(list), "ids in a list of %d", len(list))
		equal(t, found[a.id], a.stat(), "the one queue in the list")
		equal(t, found[b.id], b.stat(), "the other queue in the list")
		if _, ok := found[gone.id]; ok {
			t.Error("List has a queue that was removed")
		}
	}},
	{"Limits counts queues, messages and bytes", "msgctl_info", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.send(1, "abc")
		l, err := m.Limits()
		equal(t, err, nil, "Limits")
		// Other programs have queues too.
		if l.Queues < 1 || l.Messages < 1 || l.Bytes < 3 {
			t.Errorf("Limits = %+v, with a queue that holds a message of 3 bytes", l)
		}
		if l.MaxMessage < 1 || l.MaxBytes < 1 || l.MaxQueues < l.Queues {
			t.Errorf("Limits = %+v", l)
		}
	}},
}

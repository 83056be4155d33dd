package sysvtest

import (
	"testing"

	"github.com/chanmq/chanmq/internal/sysv"
)

// Users and groups of the tests. They need not exist.
const (
	ownerID, ownerGID = 2001, 3001
	friendID          = 2002 // is in the group
	otherID, otherGID = 2003, 3003
	heirID            = 2004 // is given the queue
	heirGID           = 3004
)

// people is a queue of one user, and other users.
type people struct {
	t                          *testing.T
	owner, friend, other, heir User
	id                         int
}

func newPeople(t *testing.T, m Machine, mode int) people {
	t.Helper()
	p := people{
		t:      t,
		owner:  m.As(t, ownerID, ownerGID),
		friend: m.As(t, friendID, ownerGID),
		other:  m.As(t, otherID, otherGID),
		heir:   m.As(t, heirID, heirGID),
	}
	equal(t, p.owner(func(k sysv.Kernel) (err error) {
		p.id, err = k.Get(sysv.KeyPrivate, mode)
		return err
	}), nil, "Get")
	t.Cleanup(func() {
		if err := m.Remove(p.id); err != nil && err != sysv.EINVAL { // EINVAL: the test has removed it
			t.Errorf("the queue is left behind: %v", err)
		}
	})
	return p
}

// Calls of a user on the queue. They return the error.

func (p people) read(u User) error {
	return u(func(k sysv.Kernel) error { return Receive(k.Receive, p.id, room, 0, 0).Err })
}

func (p people) write(u User) error {
	return u(func(k sysv.Kernel) error { return k.Send(p.id, Message(1, "")) })
}

func (p people) stat(u User) error {
	return u(func(k sysv.Kernel) error { _, err := k.Stat(p.id); return err })
}

func (p people) set(u User, a sysv.Attr) error {
	return u(func(k sysv.Kernel) error { return k.Set(p.id, a) })
}

func (p people) remove(u User) error {
	return u(func(k sysv.Kernel) error { return k.Remove(p.id) })
}

var permissionRules = []rule{
	{"a queue belongs to the user and group that created it", "ipc_addid", func(t *testing.T, m Machine) {
		p := newPeople(t, m, 0o604)
		st, err := m.Stat(p.id)
		equal(t, err, nil, "Stat")
		equal(t, st.UID, ownerID, "UID")
		equal(t, st.GID, ownerGID, "GID")
		equal(t, st.CreatorUID, ownerID, "CreatorUID")
		equal(t, st.CreatorGID, ownerGID, "CreatorGID")
	}},
	{"owner, group and others have the rights of their own three bits", "ipcperms", func(t *testing.T, m Machine) {
		for _, c := range []struct {
			mode                 int
			owner, friend, other string
		}{
			{0o600, "rw", "", ""},
			{0o060, "", "rw", ""},
			{0o006, "", "", "rw"},
			{0o420, "r", "w", ""},
			{0o204, "w", "", "r"},
			{0o042, "", "r", "w"},
			{0o711, "rw", "", ""}, // no call needs x
			{0o000, "", "", ""},
		} {
			p := newPeople(t, m, c.mode)
			for _, u := range []struct {
				name   string
				user   User
				rights string
			}{{"owner", p.owner, c.owner}, {"friend", p.friend, c.friend}, {"other", p.other, c.other}} {
				write, read, stat := error(sysv.EACCES), error(sysv.EACCES), error(sysv.EACCES)
				if u.rights == "w" || u.rights == "rw" {
					write = nil
				}
				if u.rights == "r" || u.rights == "rw" {
					read, stat = nil, nil
				}
				// A message to read, from the kernel's own user, who has all rights.
				equal(t, m.Send(p.id, Message(1, "")), nil, "Send as root")
				equal(t, p.write(u.user), write, "mode %#o: Send of %s", c.mode, u.name)
				equal(t, p.read(u.user), read, "mode %#o: Receive of %s", c.mode, u.name)
				equal(t, p.stat(u.user), stat, "mode %#o: Stat of %s", c.mode, u.name)
			}
		}
	}},
	{"Get of a key checks the permissions in its flags", "ipc_check_perms", func(t *testing.T, m Machine) {
		key := freeKey(t, m)
		get(t, m, key, 0o604)
		other := m.As(t, otherID, otherGID)
		for _, c := range []struct {
			flags int
			err   error
		}{
			{0, nil},
			{0o004, nil},
			{0o400, nil}, // the classes are combined: it asks for read permission
			{0o444, nil},
			{sysv.Create | 0o400, nil},
			{0o002, sysv.EACCES},
			{0o600, sysv.EACCES},
			{sysv.Create | 0o600, sysv.EACCES},
			{sysv.Create | sysv.Exclusive | 0o600, sysv.EEXIST},
		} {
			err := other(func(k sysv.Kernel) error { _, err := k.Get(key, c.flags); return err })
			equal(t, err, c.err, "Get with flags %#o", c.flags)
		}
	}},
	{"Copy needs read permission", "do_msgrcv", func(t *testing.T, m Machine) {
		p := newPeople(t, m, 0o622)
		equal(t, p.write(p.owner), nil, "Send")
		look := func(k sysv.Kernel) error { return Receive(k.Receive, p.id, room, 0, sysv.Copy).Err }
		if err := p.owner(look); err == sysv.ENOSYS {
			t.Skip("this kernel was built without CONFIG_CHECKPOINT_RESTORE: MSG_COPY is ENOSYS")
		}
		equal(t, p.other(look), error(sysv.EACCES), "Copy")
	}},
	{"List shows queues that may not be read", "msgctl_stat, MSG_STAT_ANY (Linux 4.17)", func(t *testing.T, m Machine) {
		if m.Emulated {
			t.Skip("qemu-user does not know MSG_STAT_ANY")
		}
		p := newPeople(t, m, 0o600)
		found := false
		equal(t, p.other(func(k sysv.Kernel) error {
			list, err := k.List()
			for _, st := range list {
				found = found || st.ID == p.id
			}
			return err
		}), nil, "List")
		equal(t, found, true, "found")
	}},
	{"only owner and creator may change or remove a queue", "ipcctl_obtain_check", func(t *testing.T, m Machine) {
		m.needMode(t)
		p := newPeople(t, m, 0o666)
		given := sysv.Attr{UID: heirID, GID: heirGID, Mode: 0o600, MaxBytes: 100}
		for _, u := range []User{p.friend, p.other, p.heir} {
			equal(t, p.set(u, given), error(sysv.EPERM), "Set")
			equal(t, p.remove(u), error(sysv.EPERM), "Remove")
		}
		equal(t, p.set(p.owner, given), nil, "Set of the owner")
		st, err := m.Stat(p.id)
		equal(t, err, nil, "Stat")
		equal(t, st.UID, heirID, "UID")
		equal(t, st.CreatorUID, ownerID, "CreatorUID")
		equal(t, st.GID, heirGID, "GID")
		equal(t, st.CreatorGID, ownerGID, "CreatorGID")

		equal(t, p.write(p.heir), nil, "Send of the new owner")
		equal(t, p.read(p.owner), nil, "Receive of the creator")
		equal(t, p.write(p.other), error(sysv.EACCES), "Send of another")
		equal(t, p.set(p.heir, given), nil, "Set of the new owner")
		equal(t, p.set(p.owner, given), nil, "Set of the creator")
		equal(t, p.remove(p.heir), nil, "Remove of the new owner")
	}},
	{"the group that created a queue keeps the rights of the group", "ipcperms", func(t *testing.T, m Machine) {
		m.needMode(t)
		p := newPeople(t, m, 0o060)
		equal(t, p.set(p.owner, sysv.Attr{UID: heirID, GID: heirGID, Mode: 0o060, MaxBytes: 100}), nil, "Set")
		equal(t, p.write(p.friend), nil, "Send of the creator's group")
		equal(t, p.write(p.heir), error(sysv.EACCES), "Send of the new owner")
		equal(t, p.write(m.As(t, otherID, heirGID)), nil, "Send of the new group")
		equal(t, p.write(p.other), error(sysv.EACCES), "Send of another")
	}},
	{"more than msgmnb takes CAP_SYS_RESOURCE", "msgctl_down", func(t *testing.T, m Machine) {
		p := newPeople(t, m, 0o600)
		limits, err := m.Limits()
		equal(t, err, nil, "Limits")
		a := sysv.Attr{UID: ownerID, GID: ownerGID, Mode: 0o600}
		for _, c := range []struct {
			size uint64
			err  error
		}{
			{0, nil},
			{uint64(limits.MaxBytes), nil}, // back up again
			{uint64(limits.MaxBytes) + 1, sysv.EPERM},
			{1<<31 - 1, sysv.EPERM},
			{1 << 31, sysv.EPERM},
			{1<<32 - 1, sysv.EPERM},
		} {
			a.MaxBytes = c.size
			equal(t, p.set(p.owner, a), c.err, "Set of %d bytes", c.size)
		}
		st, err := m.Stat(p.id)
		equal(t, err, nil, "Stat")
		equal(t, st.MaxBytes, uint64(limits.MaxBytes), "MaxBytes")
	}},
}

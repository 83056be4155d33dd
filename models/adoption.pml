/*
 * How messages outlive the process that took them: the protocol of internal/journal
 * between the owner of a journal and those that adopt it, as a model for Spin.
 * docs/journal.md states the claims in words; models/check checks them.
 *
 * An owner receives messages into the slots of a file; it acknowledges them, or keeps
 * them, and may close the file. With RUNS=2 another owner follows it. Two adopters watch
 * the directory; their programs acknowledge what they get. Any process may be killed
 * before each of its steps. An adopter is then started again, except for the last of
 * KILLS, so that one is left.
 *
 * The kernel ends a process in two steps: it reports that a file was closed which was
 * open for writing, and it unlocks the file. An owner has one descriptor for both. An
 * adopter has two, which are closed in any order. A file that is closed with messages,
 * by Journal.Close or Adopted.Close, looks the same from outside.
 *
 * An adopter tries a locked file again until it gets the lock, unless another process
 * has the file open for writing, so that its end will be reported. In truth it gives up
 * after a second, whoever has the lock. So the claims in temporal logic hold if nobody
 * has a file locked for so long without having it open for writing.
 *
 * Names do not come again, as they are random. With SAME_NAME those of journals do as
 * soon as they are free. Those of unfinished files must not, or Open may fail.
 *
 * With POLLS there is no inotify, and adopters look at all files again and again. With
 * STRANGER the second adopter has another queue: it locks files, removes those that are
 * empty, and lets go of the others. The first one is then not killed.
 *
 * With PACK both messages are values of one pack. The owner receives it into slot 0 of the
 * file, and moves the values, one or both at a time, to the slots 1 and 2. An adopter moves
 * what is left of it to the slots 3 and 4: in truth to an extent that it makes part of the
 * file, all values in one step. A value that is in the pack too does not count, and is
 * freed first. So after a kill the next adopter can begin again.
 *
 * Not in the model: the order and the length of messages, growth, files that cannot be
 * read, whose queue it is, events that are lost, and what goes back to the queue.
 *
 * Each of these removes a part of the protocol, and makes a check fail:
 *   NO_NAME      an adopter does not look whether the file that it has locked still has
 *                its name. This matters only if names come again.
 *   UNLOCK_FIRST a file is unlocked, and then removed. The same holds.
 *   NO_LOCK      an adopter takes the messages of a file that is locked
 *   READ_FIRST   an adopter reads the messages, and then locks the file
 *   COPIES       an adopter removes the file when it has read the messages
 *   ANY_FREE     an adopter removes the file when one of its slots is empty
 *   FREE_FIRST   an owner frees a message, and then delivers it
 *   NO_ARM       an owner leaves in a slot what the last message has left there
 *   NUMBERED     an adopter takes a slot without a number for an empty one
 *   CLOSE_ALL    an owner that closes its file removes it, whatever it holds
 *   EARLY_NAME   a file has its name before it is written
 *   LATE_LOCK    a file has its name before it is locked
 *   NO_LOCKED    an owner does not mind that another process has locked its file
 *   NO_LINKS     an owner does not look whether its file was removed before it was locked
 *   KEEP_EMPTY   an adopter leaves a file without messages where it is
 *   NO_RETRY     an adopter does not try a locked file again
 *   LATE_WATCH   an adopter looks at all files, and then begins to watch
 *   WRITES       an adopter opens every file that it looks at for writing
 * and these, of packs:
 *   MOVED_FIRST  an owner records that a value was moved, and then moves it
 *   EARLY_TYPE   an owner moves the value's type first, before its number
 *   LATE_MOVED   an owner delivers a value, and then records that it was moved
 *   NO_TWICE     an adopter does not mind that a value is in a slot and in the pack
 *   LATE_TWICE   an adopter frees such slots when it has freed the pack
 *   PACK_FIRST   an adopter frees a pack, and then writes its values
 */

#ifndef MESSAGES
#define MESSAGES 2
#endif
#ifndef RUNS
#define RUNS 1 /* owners, one after the other */
#endif
#ifndef KILLS
#define KILLS 1 /* of adopters */
#endif
#ifdef PACK
#define SLOTS 5
#endif
#ifndef SLOTS
#define SLOTS 1 /* of a file */
#endif
#ifndef FILES
#define FILES 2 /* that are created */
#endif

/* The processes: an owner, and adopters 1 and 2. */
#define PROCESSES 3
#define OWNER     0
#ifdef STRANGER
#define stranger(p) (p == 2)
#else
#define stranger(p) false
#endif

#define bit(n)  (1 << (n))
#define slot(s) (SLOTS*f + s) /* of the file f */

bool alive[PROCESSES];
byte kills; /* of adopters */
byte gone;  /* the adopter that is not started again, or 0 */

/* The messages. Those from taken on are in the queue. */
byte taken;
byte holder[MESSAGES];     /* the living processes that have it, as bits */
byte delivered[MESSAGES];  /* how many times */
bool acked[MESSAGES];

/* The files, in the order of their creation, and their slots. */
byte files;
bool linked[FILES];        /* it has a name */
bool written[FILES];
byte locked[FILES];        /* the process that has locked it, plus 1, or 0 */
byte writers[FILES];       /* how many processes have it open for writing */
byte type[SLOTS*FILES];    /* the message, plus 1, or 0 */
byte number[SLOTS*FILES];  /* the message whose number and length there are, plus 1, or 0 */
byte attempts[SLOTS*FILES];
#ifdef PACK
byte moved[FILES];         /* how many values of the pack have slots of their own */
#endif

/* The directory: the file of each name, plus 1, or 0. Unfinished ones come first. */
#ifdef SAME_NAME
#define NAMES     (FILES + 1)
#define name(f)   FILES
#define unused(n) (dir[n] == 0 && dir[0] == 0 && dir[FILES-1] == 0)
#else
#define NAMES     (2*FILES)
#define name(f)   (FILES + f)
#define unused(n) true
#endif
#define unfinished(f) f
byte dir[NAMES];

/* The adopters: what they are to look at, names as bits, and whether inotify tells them. */
byte look[PROCESSES];
bool watches[PROCESSES];

hidden byte i, j, found;   /* used within one step */

/* Each message is in the queue, in a file, with a living process, or acknowledged. */
inline noneLost() {
	for (i : 0 .. MESSAGES-1) {
		found = i >= taken || holder[i] != 0 || acked[i];
		for (j : 0 .. SLOTS*FILES-1) {
#ifdef PACK
			found = found || linked[j/SLOTS] && type[j] > 0 && (j%SLOTS > 0 -> type[j] == i + 1 : i >= moved[j/SLOTS])
#else
			found = found || linked[j/SLOTS] && type[j] == i + 1
#endif
		}
		assert(found)
	}
	i = 0
}

/* The end of a process. What it does from then on is done by the kernel. */
inline die(p) {
	d_step {
		alive[p] = false;
		watches[p] = false;
		look[p] = 0;
		for (i : 0 .. MESSAGES-1) {
			holder[i] = holder[i] & ~bit(p)
		}
		noneLost()
	}
}

/* unlink(2) */
inline unlink(n) {
	d_step {
		if
		:: dir[n] > 0 ->
			linked[dir[n]-1] = false;
			for (i : 0 .. SLOTS-1) { /* nobody reads them again: fewer states */
				number[SLOTS*(dir[n]-1) + i] = 0;
				attempts[SLOTS*(dir[n]-1) + i] = 0
			}
			dir[n] = 0
		:: else
		fi;
		noneLost()
	}
}

/* close(2) of a descriptor for writing: IN_CLOSE_WRITE */
inline report(f) {
	d_step {
		writers[f]--;
		for (i : 0 .. NAMES-1) {
			for (j : 0 .. PROCESSES-1) {
				look[j] = look[j] | (watches[j] && dir[i] == f + 1 -> bit(i) : 0)
			}
		}
		i = 0
	}
}

/* flock(2) */
inline lock(p, f) { locked[f] == 0 -> locked[f] = p + 1 }

/* close(2) of the descriptor that may be locked */
inline unlock(p, f) {
	d_step {
		if
		:: locked[f] == p + 1 -> locked[f] = 0
		:: else
		fi
	}
}

/* The program gets a message. */
inline deliver(m) {
	assert(!acked[m]);
	delivered[m]++
}

inline acknowledge(p, m) {
	acked[m] = true;
	delivered[m] = 0; /* not compared again: fewer states */
	holder[m] = holder[m] & ~bit(p)
}

/* the slots of an owner */
#define EMPTY     0
#define ARMED     1
#define RECEIVED  2 /* msgrcv(2) has returned */
#define TOOK      3
#define DELIVERED 4

/* One step of whoever receives into slot s, or of the program. */
inline serve(s) {
	if
#ifndef PACK
	:: d_step { state[s] == EMPTY && taken < MESSAGES -> /* Slot.Arm */
#ifndef NO_ARM
		number[slot(s)] = 0;
		attempts[slot(s)] = 0;
#endif
		state[s] = ARMED
	   }
	:: d_step { state[s] == ARMED && taken < MESSAGES -> /* msgrcv(2) */
		type[slot(s)] = taken + 1;
		holder[taken] = bit(OWNER);
		taken++;
		state[s] = RECEIVED
	   }
	:: d_step { state[s] == RECEIVED -> /* Slot.Took */
		number[slot(s)] = type[slot(s)];
		state[s] = TOOK
	   }
#endif
#ifndef FREE_FIRST
	:: d_step { state[s] == TOOK -> /* Slot.Deliver */
		deliver(type[slot(s)] - 1);
		attempts[slot(s)]++;
		state[s] = DELIVERED
	   }
	:: d_step { state[s] == DELIVERED -> /* Slot.Free */
		acknowledge(OWNER, type[slot(s)] - 1);
		type[slot(s)] = 0;
		state[s] = EMPTY
	   }
#else
	:: d_step { state[s] == TOOK ->
		m[s] = type[slot(s)] - 1;
		type[slot(s)] = 0;
		state[s] = DELIVERED
	   }
	:: d_step { state[s] == DELIVERED ->
		deliver(m[s]);
		acknowledge(OWNER, m[s]);
		m[s] = 0;
		state[s] = EMPTY
	   }
#endif
	fi
}

#ifdef PACK
/* The pack does not hold the first n values any more. */
inline move(n) {
	moved[f] = n;
	if
	:: moved[f] == MESSAGES -> type[slot(0)] = 0; number[slot(0)] = 0; moved[f] = 0; state[0] = EMPTY
	:: else
	fi
}

/* One step of whoever receives the pack, and takes it apart. */
inline unpack() {
	if
	:: d_step { state[0] == EMPTY && taken == 0 -> state[0] = ARMED }
	:: d_step { state[0] == ARMED -> /* msgrcv(2) */
		type[slot(0)] = 1;
		for (i : 0 .. MESSAGES-1) {
			holder[i] = bit(OWNER)
		}
		i = 0;
		taken = MESSAGES;
		state[0] = RECEIVED
	   }
	:: d_step { state[0] == RECEIVED -> /* Slot.TookPack */
		number[slot(0)] = 1;
		state[0] = TOOK
	   }
#ifdef MOVED_FIRST
	:: d_step { state[0] == TOOK && put < MESSAGES && number[slot(1+put)] == 0 ->
		number[slot(1+put)] = put + 1;
		move(put + 1)
	   }
	:: d_step { put < MESSAGES && number[slot(1+put)] > 0 ->
		type[slot(1+put)] = put + 1;
		state[1+put] = TOOK;
		put++
	   }
#else
	/* Slot.Put: what is before the type, and the type */
#ifdef EARLY_TYPE
	:: d_step { state[0] == TOOK && put < MESSAGES && type[slot(1+put)] == 0 ->
		type[slot(1+put)] = put + 1
	   }
	:: d_step { state[0] == TOOK && put < MESSAGES && type[slot(1+put)] > 0 ->
		number[slot(1+put)] = put + 1;
		put++
	   }
#else
	:: d_step { state[0] == TOOK && put < MESSAGES && number[slot(1+put)] == 0 ->
		number[slot(1+put)] = put + 1
	   }
	:: d_step { state[0] == TOOK && put < MESSAGES && number[slot(1+put)] > 0 ->
		type[slot(1+put)] = put + 1;
#ifdef LATE_MOVED
		state[1+put] = TOOK;
#endif
		put++
	   }
#endif
	:: d_step { state[0] == TOOK && put > moved[f] -> /* Slot.Moved */
#ifndef LATE_MOVED
		for (i : moved[f] .. put-1) {
			state[1+i] = TOOK
		}
		i = 0;
#endif
		move(put)
	   }
#endif
	fi
}
#endif

#ifdef PACK
#define receiving (state[0] == RECEIVED)
#define noneHeld  (type[slot(0)] == 0 && type[slot(1)] == 0 && type[slot(2)] == 0)
#elif SLOTS == 1
#define receiving (state[0] == RECEIVED)
#define noneHeld  (type[slot(0)] == 0)
#else
#define receiving (state[0] == RECEIVED || state[1] == RECEIVED)
#define noneHeld  (type[slot(0)] == 0 && type[slot(1)] == 0)
#endif

proctype owner() {
	byte runs, f, state[SLOTS];
	bool has;  /* the file f, open */
	bool late; /* UNLOCK_FIRST: it is still to be removed */
#ifdef FREE_FIRST
	byte m[SLOTS];
#endif
#ifdef PACK
	byte put;  /* how many values have slots of their own */
#endif

	do
	:: runs == RUNS -> break
	:: runs < RUNS ->
		d_step { alive[OWNER] = true; runs++ };
		{
			do /* Journal.create */
			:: d_step { files < FILES && unused(name(files)) ->
				f = files;
				files++;
				linked[f] = true;
#if defined(EARLY_NAME) || defined(LATE_LOCK)
				dir[name(f)] = f + 1;
#else
				dir[unfinished(f)] = f + 1;
#endif
#ifdef LATE_LOCK
				written[f] = true;
#endif
				writers[f]++;
				has = true
			   };
				if
				:: d_step { lock(OWNER, f) }
#ifdef NO_LOCKED
				:: locked[f] != 0
#else
				:: locked[f] != 0 -> goto discard
#endif
				fi;
#if !defined(NO_LINKS) && !defined(LATE_LOCK)
				if
				:: linked[f]
				:: !linked[f] -> goto discard
				fi;
#endif
				written[f] = true;
#if !defined(EARLY_NAME) && !defined(LATE_LOCK)
				d_step { /* rename(2). If it failed, Open would. */
					assert(dir[unfinished(f)] == f + 1);
					dir[unfinished(f)] = 0;
					dir[name(f)] = f + 1
				};
#endif
				break;
discard:			/* An adopter took it for one whose owner is dead. */
				unlink(unfinished(f));
				report(f);
				d_step { unlock(OWNER, f); has = false }
			od;
			do
#ifdef PACK
			:: unpack()
			:: serve(1)
			:: serve(2)
#else
			:: serve(0)
#if SLOTS > 1
			:: serve(1)
#endif
#endif
			:: alive[OWNER] /* it takes its time, perhaps for ever */
			:: !receiving -> break
			od;
			/* Journal.finish */
			if
#ifdef UNLOCK_FIRST
			:: noneHeld -> late = true
#else
			:: noneHeld -> unlink(name(f))
#endif
#ifdef CLOSE_ALL
			:: !noneHeld -> unlink(name(f))
#else
			:: !noneHeld
#endif
			fi;
			die(OWNER)
		} unless {
			!alive[OWNER]
		};
		if
		:: has -> report(f); unlock(OWNER, f)
		:: else
		fi;
		if
		:: late -> unlink(name(f))
		:: else
		fi;
		d_step {
			for (i : 0 .. SLOTS-1) {
				state[i] = EMPTY
			}
			f = 0;
			has = false;
			late = false
		}
	od
}

/* directory.names */
inline scan() {
	d_step {
		for (i : 0 .. NAMES-1) {
			look[a] = look[a] | (dir[i] > 0 -> bit(i) : 0)
		}
		i = 0
	}
}

#ifdef NUMBERED
#define content number
#else
#define content type
#endif

#ifdef PACK
#define noneLeft (had[0] == 0 && had[1] == 0 && had[2] == 0 && had[3] == 0 && had[4] == 0)
#elif SLOTS == 1
#define noneLeft (had[0] == 0)
#elif defined(ANY_FREE)
#define noneLeft (had[0] == 0 || had[1] == 0)
#else
#define noneLeft (had[0] == 0 && had[1] == 0)
#endif

/* readSlots */
inline read() {
	for (i : 0 .. SLOTS-1) {
		had[i] = content[slot(i)]
	}
	i = 0
}

/* What was read now belongs to this process. */
inline take() {
	for (i : 0 .. SLOTS-1) {
		if
		:: had[i] > 0 ->
			assert(holder[had[i]-1] == 0 && !acked[had[i]-1]);
			assert(number[slot(i)] == 0 || number[slot(i)] == had[i]);
			assert(attempts[slot(i)] == delivered[had[i]-1]);
			holder[had[i]-1] = bit(a)
		:: else
		fi
	}
	i = 0
}

#ifdef PACK
/* Slot s has a value that the pack has too. */
#define twice(s) (had[s] > 0 && number[slot(s)] > moved[f])

inline freeTwice() {
	do
	:: d_step { twice(1) -> vacate(1) }
	:: d_step { twice(2) -> vacate(2) }
	:: d_step { twice(3) -> vacate(3) }
	:: d_step { twice(4) -> vacate(4) }
	:: !twice(1) && !twice(2) && !twice(3) && !twice(4) -> break
	od
}

inline vacate(s) {
	type[slot(s)] = 0;
	number[slot(s)] = 0;
	had[s] = 0
}

/* The extent is part of the file. */
inline append() {
	for (i : moved[f] .. MESSAGES-1) {
		type[slot(3+i)] = i + 1;
		number[slot(3+i)] = i + 1;
		attempts[slot(3+i)] = 0
	}
	i = 0
}

inline freePack() { type[slot(0)] = 0; number[slot(0)] = 0 }

/* unpack, of internal/journal */
inline unpackAdopted() {
#if !defined(NO_TWICE) && !defined(LATE_TWICE)
	freeTwice();
#endif
	if
	:: d_step { number[slot(0)] == 0 -> number[slot(0)] = 1 } /* recordPack */
	:: number[slot(0)] > 0
	fi;
#ifdef PACK_FIRST
	d_step { freePack() };
	d_step { append() };
#else
	d_step { append() };
	d_step { freePack() };
#endif
#ifdef LATE_TWICE
	freeTwice();
	skip; /* no jump into the next step */
#endif
	d_step {
		moved[f] = 0; /* not read again: fewer states */
		read()
	}
}

#endif

/* Slot.Deliver, and Slot.Free */
inline handle(s) {
	d_step { had[s] > 0 -> deliver(had[s] - 1); attempts[slot(s)]++ };
	d_step { acknowledge(a, had[s] - 1); type[slot(s)] = 0; had[s] = 0 }
}

inline reset() {
	n = 0;
	f = 0;
	writes = false;
	for (i : 0 .. SLOTS-1) {
		had[i] = 0
	}
	i = 0
}

proctype adopter(byte a) {
	byte n;          /* the name */
	byte f;          /* the file */
	byte had[SLOTS]; /* its messages, plus 1 */
	bool writes;     /* it is open for writing */

start:
	alive[a] = true;
	{
		/* Watch */
#ifdef LATE_WATCH
		scan();
		watches[a] = true;
#else
#ifndef POLLS
		watches[a] = true;
#endif
		scan();
#endif
next:		do
#ifdef POLLS
		:: look[a] == 0 -> scan()
#endif
		:: atomic { look[a] != 0 -> /* directory.adopt, of one of them */
			do
			:: look[a] & bit(n) -> break
			:: look[a] >> (n+1) != 0 -> n++
			od;
			look[a] = look[a] & ~bit(n);
			if
			:: dir[n] == 0 -> n = 0; goto next
			:: else
			fi;
			f = dir[n] - 1;
#ifdef WRITES
			writers[f]++;
			writes = true;
#endif
#ifdef READ_FIRST
			read();
#endif
			assert(n < FILES || written[f]) /* readHeader */
		   };
			if
			:: d_step { lock(a, f) }
#ifdef NO_LOCK
			:: locked[f] != 0 && n >= FILES
#endif
			:: atomic { locked[f] != 0 ->
#ifndef NO_RETRY
				if /* Watcher.retry */
				:: writers[f] == 0 -> look[a] = look[a] | bit(n)
				:: else
				fi;
#endif
				goto shut
			   }
			fi;
			atomic { /* one step: what is locked stays as it is */
#ifndef NO_NAME
				if
				:: dir[n] != f + 1 -> goto shut
				:: else
				fi;
#endif
#ifndef READ_FIRST
				read();
#endif
				if
				:: n < FILES -> goto remove
#ifdef KEEP_EMPTY
				:: n >= FILES && noneLeft -> goto shut
#else
				:: n >= FILES && noneLeft -> goto remove
#endif
				:: n >= FILES && !noneLeft && stranger(a) -> goto shut
				:: else
				fi
			};
#ifdef PACK
			d_step { writers[f]++; writes = true };
			if
			:: had[0] > 0 -> unpackAdopted()
			:: had[0] == 0
			fi;
			d_step { take() };
#else
			d_step {
#ifndef WRITES
				writers[f]++;
				writes = true;
#endif
				take()
			};
#endif
#ifdef COPIES
			unlink(n);
#endif
			do
#ifdef PACK
			:: handle(1)
			:: handle(2)
			:: handle(3)
			:: handle(4)
#else
			:: handle(0)
#if SLOTS > 1
			:: handle(1)
#endif
#endif
			:: noneLeft -> break
			od;
			/* Adopted.finish */
#ifdef UNLOCK_FIRST
			unlock(a, f);
#endif
remove:			unlink(n);
shut:			atomic {
				unlock(a, f);
				if
				:: !writes -> reset(); goto next
				:: else
				fi
			};
			atomic { report(f); reset() }
		od
	} unless {
		!alive[a]
	};
	if
	:: unlock(a, f);
		if
		:: writes -> report(f)
		:: else
		fi
	:: writes -> report(f); unlock(a, f)
	fi;
	d_step { reset() };
	if
	:: gone != a -> goto start
	:: gone == a
	fi
}

inline killAdopter(a) {
	kills++;
	gone = (kills == KILLS -> a : 0);
	die(a)
}

/* It kills any of them, at any moment, or never. */
proctype killer() {
	do
	:: atomic { alive[OWNER] -> die(OWNER) }
#ifndef STRANGER
	:: atomic { alive[1] && kills < KILLS -> killAdopter(1) }
#endif
	:: atomic { alive[2] && kills < KILLS -> killAdopter(2) }
	:: kills <= KILLS /* not now */
	od
}

init {
	atomic {
		run owner();
		run adopter(1);
		run adopter(2);
		run killer()
	}
}

#define orphan(m) (m < taken && holder[m] == 0 && !acked[m])
#define left(f)   (linked[f] && locked[f] == 0 && writers[f] == 0)

/* What a dead process did not acknowledge is acknowledged in the end. */
#if MESSAGES == 1
ltl adopted { [] (orphan(0) -> <> acked[0]) }
#else
ltl adopted { [] (orphan(0) -> <> acked[0]) && [] (orphan(1) -> <> acked[1]) }
#endif
/* A file that a process has left is removed in the end. */
#if FILES == 1
ltl removed { [] (left(0) -> <> !linked[0]) }
#else
ltl removed { [] (left(0) -> <> !linked[0]) && [] (left(1) -> <> !linked[1]) }
#endif
/* Adopters that have nothing to do come to rest. */
ltl rests   { [] <> (look[1] == 0) && [] <> (look[2] == 0) }

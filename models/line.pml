/*
 * How receives that select the same messages line up: the protocol of
 * internal/wait/line.go and Waiter.Run, with the numbers that messages get as they are
 * taken and with the slot that they are handed back to, as a model for Spin.
 * docs/waiting.md states the claims in words; models/check checks them.
 *
 * Two Receivers (ordered Waiters) and a direct Receive wait for the same messages. The
 * ctx of the Receivers may end at any moment; one that holds a message then hands it
 * back. Another process sends messages. The direct Receive goes on until it has had
 * RUNS of them.
 *
 * That a wait which sleeps is woken when it has to be is shown by interrupt.pml and
 * poller.pml. Here it sleeps in one step, parked or polled, and Wake wakes it in one.
 * The kernel's order of the messages is their numbers: 0, 1 and so on.
 *
 * Not in the model: TryMore, which is one more try with the turn, and waits for other
 * messages, which are in lines of their own.
 *
 * Each of these removes a part of the protocol, and makes a check fail:
 *   NO_LINE      waits do not line up. So it is with Receivers whose selectors differ
 *                and overlap: the order of what they hand back is not the kernel's.
 *   EARLY_TURN   the turn is given on when a message was taken, before it has its number
 *   LOST_TURN    a wait whose ctx ends when it has just got the turn does not give it on
 *   STAYS        a wait whose ctx ends stays in line until it is its turn
 *   NO_RECHECK   a wait that goes to sleep does not look whether it is pending
 *   LATE_CAUSE   handBack wakes first, and then puts the message into the slot
 *   UNFAIR       the turn goes to any of those in line
 */

#ifndef RUNS
#define RUNS 2
#endif
#ifndef MESSAGES
#define MESSAGES 2
#endif

#define NOBODY 3
#ifdef BUSY
#define ordered(w) true    /* or the direct Receive may take every message */
#else
#define ordered(w) (w < 2) /* a Receiver */
#endif

#define NOTHING 0
#define MESSAGE 1
#define END     2 /* the ctx has ended */

bool ctx[3];                         /* has ended */
bool ended[3];
chan queue = [MESSAGES] of { byte }; /* in the kernel */
chan slot  = [MESSAGES] of { byte }; /* handed back, in the order of their numbers */
byte last;                           /* the message that got the last number, plus 1 */
bool had[MESSAGES];                  /* delivered to the program */
byte delivered;

/* the line */
byte turn = NOBODY;
chan line = [3] of { byte };

/* the waits that sleep, parked or in the poller */
bool sleeps[3], woken[3];

/* semaphore.Release */
inline giveOn(w) {
	if
	:: len(line) == 0 -> turn = NOBODY
#ifdef UNFAIR
	:: line ?? [0] -> line ?? 0; turn = 0
	:: line ?? [1] -> line ?? 1; turn = 1
	:: line ?? [2] -> line ?? 2; turn = 2
#else
	:: len(line) > 0 -> line ? turn
#endif
	fi
}

inline release(w) {
	atomic {
		if
		:: has -> giveOn(w); has = false
		:: else
		fi
	}
}

/* Waiter.lineUp: semaphore.TryAcquire, and Acquire with the ctx */
inline lineUp(w, result) {
#ifdef NO_LINE
	skip
#else
	atomic {
		if
		:: turn == NOBODY && len(line) == 0 -> turn = w
		:: else -> line ! w
		fi
	};
	if
	:: atomic { turn == w -> has = true }
	:: atomic { ctx[w] && turn == w -> result = END;
#ifndef LOST_TURN
		giveOn(w)
#endif
	   }
#ifndef STAYS
	:: atomic { ctx[w] && turn != w -> result = END; line ?? eval(w) }
#endif
	fi
#endif
}

/* receive.took: the number. What a direct Receive takes is handed to the program. */
inline took(w, m) {
#ifdef EARLY_TURN
	release(w);
#endif
	atomic {
		if
#ifndef BUSY
		:: ordered(w) -> assert(m >= last); last = m + 1
#endif
		:: else
		fi
	}
}

/* receive.Try */
inline try(w, result, m) {
	if
	:: slot ? m -> result = MESSAGE
	:: len(slot) == 0 ->
		if
		:: queue ? m -> result = MESSAGE; took(w, m)
		:: len(queue) == 0
		fi
	fi
}

#ifdef NO_RECHECK
#define maySleep(w) true
#else
#define maySleep(w) (!ctx[w] && len(slot) == 0)
#endif

/* Waiter.park, or poller.wait. A result of NOTHING: it was woken. */
inline sleep(w, result, m) {
	sleeps[w] = true;
	if
	:: maySleep(w) ->
		if
		:: queue ? m -> atomic { result = MESSAGE; sleeps[w] = false }; took(w, m)
		:: woken[w]
		:: ctx[w]
		fi
	:: else
	fi;
	d_step { sleeps[w] = false; woken[w] = false }
}

/* Lot.Wake */
inline wake() {
	d_step {
		woken[0] = sleeps[0] && len(slot) > 0;
		woken[1] = sleeps[1] && len(slot) > 0;
		woken[2] = sleeps[2] && len(slot) > 0
	}
}

proctype waiter(byte w) {
	byte runs, result, m;
	bool has; /* the turn */

	do
	:: runs == RUNS -> break
	:: else ->
#ifndef BUSY
		runs++;
#endif
		result = (ctx[w] -> END : NOTHING);
		if /* Waiter.Run */
		:: result == NOTHING && ordered(w) -> lineUp(w, result)
		:: else
		fi;
		if
		:: result == NOTHING -> try(w, result, m)
		:: else
		fi;
		if /* Waiter.sleep */
		:: result == NOTHING && !ordered(w) ->
			lineUp(w, result);
			if
			:: result == NOTHING -> try(w, result, m)
			:: else
			fi
		:: else
		fi;
		do
		:: result != NOTHING -> break
		:: else ->
			sleep(w, result, m);
			if
			:: result == NOTHING && ctx[w] -> result = END
			:: else
			fi;
			if
			:: result == NOTHING -> try(w, result, m)
			:: else
			fi
		od;
		release(w);
		if
		:: result == END -> break
#ifndef BUSY
		:: result == MESSAGE && ctx[w] -> /* queue.handBack */
#ifdef LATE_CAUSE
			wake();
			slot !! m;
#else
			slot !! m;
			wake();
#endif
			break
		:: else -> d_step { assert(!had[m]); had[m] = true; delivered++; m = 0 }
#else
		:: else
#endif
		fi
	od;
	ended[w] = true
}

/* What follows may happen at any time or never: each process may wait any time, also
 * forever, before it acts. */

proctype canceler(byte w) {
	do
	:: ctx[w] = true; break
	:: !ctx[w]
	od
}

/* msgsnd(2) of another process */
proctype sender() {
	byte m;
#ifdef BUSY
	do /* without end */
	:: atomic { len(queue) == 0 -> queue ! 0 }
	od
#else
	do
	:: m < MESSAGES ->
		do
		:: atomic { queue ! m; m++ }; break
		:: m < MESSAGES
		od
	:: m == MESSAGES -> break
	od;
	ended[0] && ended[1] && ended[2] -> assert(delivered + len(queue) + len(slot) == m)
#endif
}

init {
	atomic {
		run waiter(0);
		run waiter(1);
		run waiter(2);
		run sender();
#ifndef BUSY
		run canceler(0);
		run canceler(1)
#endif
	}
}

#define none (ended[0] && ended[1] && ended[2])

/* A wait ends once its ctx has ended. */
ltl canceled { [] (ctx[0] -> <> ended[0]) && [] (ctx[1] -> <> ended[1]) }
/* A message that was handed back is taken as long as anybody waits for it. */
ltl handed   { [] (len(slot) > 0 -> <> (len(slot) == 0 || none)) }
/* The same for messages that are sent. */
ltl sends    { [] (len(queue) > 0 -> <> (len(queue) == 0 || none)) }
/* Every wait gets its turn; with BUSY. */
ltl fair     { [] (line ?? [1] -> <> !(line ?? [1])) }

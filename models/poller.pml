/*
 * How waits that must not block are served: the protocol of poller.go between
 * the goroutine of a poller and the owners of the waits that it serves, as a
 * model for Spin. docs/waiting.md states the claims in words; models/check
 * checks them.
 *
 * Two owners wait, for the same kind of message and therefore in one group, or
 * each in its own group. The ctx of the first may end, the handle may be closed,
 * and messages arrive: sent by another process, or handed back.
 *
 * A critical section under p.mu is one step. The goroutine has a timer only with
 * TIMER: kicks alone must be enough for what happens within the process (a ctx
 * that ends, Close, a message handed back).
 *
 * Not in the model: time, the change detector, and the order of the groups.
 *
 * Each of these removes a part of the protocol, and makes a check fail:
 *   NO_PENDING   add does not check for a cause after it has added the wait
 *   NO_ROOM      the kick channel has no buffer: a kick is lost unless the
 *                goroutine is waiting for it
 *   NO_CLAIM     remove takes out a wait while its operation is being tried
 *   NO_ABANDON   a claimed wait stays, although its owner wants it back
 *   LATE_FINISH  the goroutine finds no waits, and then sets running to false,
 *                in two steps
 *   LATE_CAUSE   Close and handBack kick first, and then set the cause
 *   GREEDY       a group is served as long as its tries succeed
 */

/* Which group a wait is in: by default, two waits share one group. */
#if defined(APART)
#define group(w) w       /* two waits, each in a group of its own */
#define GROUPS 2
#elif defined(BUSY)
#define group(w) (w / 2) /* a third wait, in a group of its own */
#define GROUPS 2
#else
#define group(w) 0
#define GROUPS 1
#endif

#ifndef RUNS
#define RUNS 2 /* waits of each owner, one after the other */
#endif
#ifndef MESSAGES
#define MESSAGES 2 /* sent or handed back */
#endif

/* The result of an operation. */
#define WAIT    0 /* errWait */
#define RETRY   1 /* errRetry */
#define MESSAGE 2
#define END     3 /* ErrClosed, or the ctx has ended */

/* The process. */
bool ctx;              /* the ctx of owner 0 has ended */
bool closed;           /* the handle is closed */
bool joined;           /* poller.join has returned */
bool ended[3];
bool owns[3];          /* the owner, not the poller, may use the operation */
byte taken;            /* messages that an owner got */
#ifdef BUSY
bool place;
#else
bool place = true;     /* a place to park becomes free, once */
#endif

/* Messages of each kind: in the kernel, and in the slot. */
byte queue[2], slot[2];

/* struct poller */
bool kick;               /* the channel p.kick holds a value */
#ifdef NO_ROOM
bool selecting;          /* the goroutine is in its select */
#endif
bool running;            /* the goroutine exists; it ends when this becomes false */
bool known[2];           /* the group is part of the current round and was not dropped */
chan waits[2] = [3] of { byte };

/* struct wait */
bool claimed[3], abandoned[3];
chan answer[3] = [1] of { byte };

#define ctxErr(w)    (w == 0 && ctx)
#define opPending(w) (closed || slot[group(w)] > 0)
#define none(g)      ((ended[0] || group(0) != g) && (ended[1] || group(1) != g) && (ended[2] || group(2) != g))
#define allEnded     (ended[0] && ended[1] && ended[2])

/* poller.wake */
#ifdef NO_ROOM
inline wake() { kick = selecting }
#else
inline wake() { kick = true }
#endif

/* receive.try, by the goroutine */
inline try(w, result) {
	if
	:: atomic { closed -> assert(!owns[w]); result = END }
	:: atomic { !closed && slot[group(w)] > 0 -> assert(!owns[w]); slot[group(w)]--; result = MESSAGE }
	:: !closed && slot[group(w)] == 0 ->
		if
		:: atomic { queue[group(w)] > 0 -> assert(!owns[w]); queue[group(w)]--; result = MESSAGE }
		:: queue[group(w)] == 0
		fi
	fi
}

/* receive.try, by the owner. Nothing depends on its single steps. */
inline tryOwn(w, result) {
	if
	:: atomic { closed -> result = END }
	:: atomic { !closed && slot[group(w)] > 0 -> slot[group(w)]--; result = MESSAGE }
	:: atomic { !closed && slot[group(w)] == 0 && queue[group(w)] > 0 -> queue[group(w)]--; result = MESSAGE }
	:: !closed && slot[group(w)] == 0 && queue[group(w)] == 0
	fi
}

/* poller.drop */
inline drop(g) {
	if
	:: empty(waits[g]) ->
		known[g] = false;
		if
		:: empty(waits[1 - g]) -> wake()
		:: nempty(waits[1 - g])
		fi
	:: nempty(waits[g])
	fi
}

/* poller.serve, for the waits of group g */
inline serveAll(g, todo, w, result) {
	do
	:: atomic { known[g] && len(waits[g]) > 0 && todo > 0 ->
#ifndef GREEDY
		todo--;
#endif
		waits[g] ? <w>;
#ifndef NO_CLAIM
		claimed[w] = true
#endif
	   };
		try(w, result);
		if
		:: result == WAIT -> todo = 0 /* the next one would fail too */
		:: else
		fi;
		atomic {
#ifndef NO_ABANDON
			if
			:: result == WAIT && abandoned[w] -> result = RETRY
			:: else
			fi;
#endif
			claimed[w] = false;
			abandoned[w] = false;
			if
			:: result != WAIT ->
				waits[g] ?? eval(w);
				drop(g);
				assert(empty(answer[w])); /* one answer per wait */
				answer[w] ! result
			:: else
			fi;
			w = 0;
			result = WAIT
		}
	:: atomic { !(known[g] && len(waits[g]) > 0 && todo > 0) -> known[g] = false; todo = 0 }; break
	od
}

/* poller.promote, of a wait of group g */
inline promote(g, w) {
	place = false;
	waits[g] ? w;
	drop(g);
	assert(empty(answer[w]));
	answer[w] ! RETRY;
	w = 0
}

/* poller.run */
proctype poller() {
	byte todo, w, result;

	do
	::
#ifdef NO_ROOM
		selecting = true;
#endif
		if
		:: atomic { kick -> kick = false
#ifdef NO_ROOM
			; selecting = false
#endif
		   }
#ifdef TIMER
		:: true
#endif
		fi;
		if /* poller.finished */
#ifdef LATE_FINISH
		:: len(waits[0]) + len(waits[1]) == 0 -> running = false; break
#else
		:: atomic { len(waits[0]) + len(waits[1]) == 0 -> running = false }; break
#endif
		:: atomic { len(waits[0]) + len(waits[1]) > 0 -> /* poller.round */
			known[0] = len(waits[0]) > 0;
			known[1] = len(waits[1]) > 0;
			todo = len(waits[0])
		   }
		fi;
		serveAll(0, todo, w, result);
		todo = len(waits[1]);
		serveAll(1, todo, w, result);
		if
		:: atomic { place && len(waits[0]) > 0 -> promote(0, w) }
		:: atomic { place && len(waits[1]) > 0 -> promote(1, w) }
		:: true
		fi
	od
}

/* poller.add, and what the owner does with the answer: wait.sleep after park
 * has returned errCannotPark. */
proctype owner(byte w) {
	byte runs, result;

	owns[w] = true;
	do
	:: runs == RUNS -> break
	:: else ->
#ifndef BUSY
		runs++;
#endif
		result = (ctxErr(w) -> END : WAIT);
		do
		:: result != WAIT -> break
		:: else ->
			tryOwn(w, result);
			if
			:: result != WAIT -> break
			:: else
			fi;
			atomic { /* poller.add */
				assert(empty(answer[w]));
				claimed[w] = false;
				abandoned[w] = false;
				owns[w] = false;
				waits[group(w)] ! w;
				if
				:: !running -> running = true; run poller()
				:: running
				fi;
#ifndef NO_PENDING
				if
				:: opPending(w) -> wake()
				:: else
				fi
#endif
			};
			if
			:: atomic { answer[w] ? result -> owns[w] = true }
			:: ctxErr(w) ->
				atomic { /* poller.remove */
					if
					:: claimed[w] -> abandoned[w] = true
					:: else ->
						if
						:: waits[group(w)] ?? [eval(w)] ->
							waits[group(w)] ?? eval(w);
							drop(group(w));
							result = RETRY;
							owns[w] = true
						:: else
						fi
					fi
				};
				if
				:: result == RETRY
				:: else -> atomic { answer[w] ? result -> owns[w] = true }
				fi
			fi;
			if
			:: result == RETRY -> result = (ctxErr(w) -> END : WAIT)
			:: else
			fi
		od;
		if
		:: result == END -> break
#ifdef BUSY
		:: else
#else
		:: else -> taken++
#endif
		fi
	od;
	ended[w] = true
}

/* What follows may happen at any time or never: each process may wait any
 * time, also forever, before it acts. */

proctype canceller() {
	do
	:: ctx = true; break
	:: !ctx
	od
}

/* queue.close, with poller.join */
proctype closer() {
	do
#ifdef LATE_CAUSE
	:: wake(); closed = true; break
#else
	:: closed = true; wake(); break
#endif
	:: !closed
	od;
	do
	:: !running -> break
	:: running -> wake(); !running
	od;
	joined = true
}

/* msgsnd(2) of another process, and queue.handBack */
#ifdef LATE_CAUSE
#define handBack(g) wake(); slot[g]++
#else
#define handBack(g) slot[g]++; wake()
#endif

proctype messages() {
	byte sent;
	do
	:: sent < MESSAGES ->
		do
		:: handBack(0); break
#ifdef TIMER
		:: queue[0]++; break
#endif
#if GROUPS == 2
		:: handBack(1); break
#ifdef TIMER
		:: queue[1]++; break
#endif
#endif
		:: sent < MESSAGES
		od;
		sent++
	:: sent == MESSAGES -> break
	od;
#ifndef BUSY
	allEnded -> assert(taken + queue[0] + queue[1] + slot[0] + slot[1] == sent)
#endif
}

#ifdef BUSY
/* An endless stream of messages for owners 0 and 1. */
proctype flood() {
	do
	:: atomic { queue[0] == 0 -> queue[0]++ }
	od
}
#endif

init {
	atomic {
		run owner(0);
		run owner(1);
		run messages();
#ifdef BUSY
		run owner(2);
		run flood()
#else
		ended[2] = true;
		run canceller();
		run closer()
#endif
	}
}

/* A wait ends once its cause is set. */
ltl cancelled { [] (ctx -> <> ended[0]) }
ltl closes    { [] (closed -> <> (allEnded && joined)) }
/* A message that was handed back is taken while an owner is left to take it. */
ltl handed    { [] (slot[0] > 0 -> <> (slot[0] == 0 || none(0))) &&
                [] (slot[1] > 0 -> <> (slot[1] == 0 || none(1))) }
/* The same for messages that are sent; with TIMER. */
ltl sends     { [] (queue[0] > 0 -> <> (queue[0] == 0 || none(0))) &&
                [] (queue[1] > 0 -> <> (queue[1] == 0 || none(1))) }
/* The goroutine ends when no waits are left. */
ltl rests     { [] (allEnded -> <> !running) }
/* A group that always has messages does not starve another one; with BUSY. */
ltl fair      { [] (slot[1] > 0 -> <> (slot[1] == 0 || none(1))) }

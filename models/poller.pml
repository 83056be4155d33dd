/*
 * How waits that must not block are served: the protocol of internal/wait/poller.go
 * between the poller's goroutine and the Waiters that it serves, as a model for Spin.
 * docs/waiting.md states the claims in words; models/check checks them.
 *
 * Two Waiters receive. Both select the messages that there are, as Any and OfType do;
 * with APART, each selects a type of its own. (Receives that select the same line up,
 * so that the poller has one of them: line.pml.) The ctx of the first may end, the
 * handle may be closed, and messages arrive: sent by another process, or handed back.
 *
 * A critical section under p.mu is one step. The goroutine's sleep is over after a
 * while TICKS times, and then only when the alarm rings: what happens within the
 * process (a ctx that ends, Close, a message handed back) must not wait for a look.
 * With TIMER it is over again and again. With SPACE, one wait is let go to park.
 *
 * Not in the model: time, the change detector, sends, and which of several waits is
 * tried first.
 *
 * Each of these removes a part of the protocol, and makes a check fail:
 *   NO_PENDING   add does not look whether the operation is pending
 *   NO_CLAIM     remove and wake take out a wait whose operation is being tried
 *   NO_ABANDON   remove leaves a claimed wait as it is
 *   WAKE_SKIPS   wake leaves a claimed wait as it is
 *   NO_RING      the alarm does not ring when the last wait has left
 *   NO_MEMORY    a ring of the alarm is lost unless the goroutine sleeps
 *   NO_RESUME    an operation is suspended behind every try, not only a failed one
 *   LATE_FINISH  the goroutine finds no waits, and then sets running to nil, in two
 *                steps
 *   LATE_CAUSE   Close and handBack wake first, and then set the cause
 *   GREEDY       a round goes on as long as there are waits, new ones too
 */

#ifdef BUSY
#define APART
#define TIMER
#endif

/* Which messages a Waiter selects: those of one type, SELECTED. */
#ifdef APART
#define SELECTED(w) w
#define TYPES 2
#else
#define SELECTED(w) 0
#define TYPES 1
#endif

#ifndef RUNS
#define RUNS 2 /* waits of each Waiter, one after the other */
#endif
#ifndef MESSAGES
#define MESSAGES 2 /* sent or handed back */
#endif
#ifndef TICKS
#define TICKS 1
#endif

/* The result of an operation. */
#define WAIT    0 /* ErrWait */
#define RETRY   1 /* errRetry */
#define MESSAGE 2
#define END     3 /* ErrClosed, or the ctx has ended */

/* The process. */
bool ctx;          /* the ctx of Waiter 0 has ended */
bool closed;       /* the handle is closed */
bool joined;       /* poller.join has returned */
bool ended[2];
bool owns[2];      /* the Waiter, not the poller, may use the operation */
bool suspended[2]; /* between Suspend and Resume */
byte taken;        /* messages that a Waiter got */
#ifdef SPACE
bool space = true; /* a space to park becomes free, once */
#endif

/* Messages of each type: in the kernel, and in the slot. */
byte queue[2], slot[2];

/* struct poller */
bool rung;        /* the alarm has rung */
#ifdef NO_MEMORY
bool sleeping;    /* the goroutine is in alarm.Sleep */
#endif
byte ticks = TICKS;
bool running;     /* there is a goroutine; it ends when this becomes false */
bool waiting[2];  /* p.waiting has it */
bool round[2];    /* the round under way has still to try it */

/* struct polled */
bool claimed[2], abandoned[2];
chan answer[2] = [1] of { byte };

#define ctxErr(w)  (w == 0 && ctx)
#define pending(w) (closed || slot[SELECTED(w)] > 0)
#define none(k)    ((ended[0] || SELECTED(0) != k) && (ended[1] || SELECTED(1) != k))
#define allEnded   (ended[0] && ended[1])

/* Alarm.Ring */
inline ring() {
#ifdef NO_MEMORY
	rung = sleeping
#else
	rung = true
#endif
}

inline usable(w) { assert(!owns[w] && !suspended[w]) }

/* receive.Try, by the goroutine: one step for each look */
inline try(w, result) {
	if
	:: atomic { closed -> usable(w); result = END }
	:: atomic { !closed && slot[SELECTED(w)] > 0 -> usable(w); slot[SELECTED(w)]--; result = MESSAGE }
	:: !closed && slot[SELECTED(w)] == 0 ->
		if
		:: atomic { queue[SELECTED(w)] > 0 -> usable(w); queue[SELECTED(w)]--; result = MESSAGE }
		:: queue[SELECTED(w)] == 0
		fi
	fi
}

/* receive.Try, by its Waiter. Nothing depends on its single steps. */
inline tryOwn(w, result) {
	if
	:: atomic { closed -> result = END }
	:: atomic { !closed && slot[SELECTED(w)] > 0 -> slot[SELECTED(w)]--; result = MESSAGE }
	:: atomic { !closed && slot[SELECTED(w)] == 0 && queue[SELECTED(w)] > 0 -> queue[SELECTED(w)]--; result = MESSAGE }
	:: !closed && slot[SELECTED(w)] == 0 && queue[SELECTED(w)] == 0
	fi
}

/* poller.drop */
inline drop(w) {
	waiting[w] = false;
#ifndef NO_RING
	if
	:: !waiting[0] && !waiting[1] -> ring()
	:: else
	fi
#endif
}

/* an answer, the only one of a wait */
inline answers(w, result) {
	assert(empty(answer[w]));
	answer[w] ! result
}

/* poller.wake, for one of the waits. The caller has made it pending, or another one. */
inline wakeOne(w) {
	if
	:: waiting[w] && pending(w) ->
#ifndef NO_CLAIM
		if
#ifdef WAKE_SKIPS
		:: claimed[w]
#else
		:: claimed[w] -> abandoned[w] = true
#endif
		:: else -> drop(w); answers(w, RETRY)
		fi
#else
		drop(w); answers(w, RETRY)
#endif
	:: else
	fi
}

inline wake() { atomic { wakeOne(0); wakeOne(1) } }

/* poller.claim and poller.serve, of w, which the round has still to try */
inline serve(w, result) {
	if
	:: atomic { waiting[w] ->
		round[w] = false;
#ifndef NO_CLAIM
		claimed[w] = true;
#endif
		suspended[w] = false /* Resume */
	   };
		try(w, result);
		atomic {
			if
#ifdef NO_RESUME
			:: true -> suspended[w] = true
#else
			:: result == WAIT -> suspended[w] = true /* Suspend */
			:: else
#endif
			fi;
			if
			:: result == WAIT && abandoned[w] -> result = RETRY
			:: else
			fi;
			claimed[w] = false;
			if
			:: result != WAIT -> drop(w); answers(w, result)
			:: else
			fi;
#ifdef GREEDY
			round[0] = waiting[0];
			round[1] = waiting[1];
#endif
			result = WAIT
		}
	:: atomic { !waiting[w] -> round[w] = false }
	fi
}

/* poller.run, of one goroutine after the other */
proctype poller() {
	byte result;

end:	do
	:: running ->
#ifdef NO_MEMORY
		sleeping = true;
#endif
		if /* Alarm.Sleep */
		:: atomic { rung -> rung = false }
#ifdef TIMER
		:: true
#else
		:: atomic { ticks > 0 -> ticks-- }
#endif
		fi;
#ifdef NO_MEMORY
		sleeping = false;
#endif
		if /* poller.finished */
#ifdef LATE_FINISH
		:: !waiting[0] && !waiting[1] -> running = false; goto end
#else
		:: atomic { !waiting[0] && !waiting[1] -> running = false; goto end }
#endif
		:: atomic { waiting[0] || waiting[1] -> round[0] = waiting[0]; round[1] = waiting[1] }
		fi;
		do /* poller.round */
		:: round[0] -> serve(0, result)
		:: round[1] -> serve(1, result)
		:: !round[0] && !round[1] -> break
		od;
#ifdef SPACE
		if /* poller.promote */
		:: atomic { space && waiting[0] -> space = false; drop(0); answers(0, RETRY) }
		:: atomic { space && waiting[1] -> space = false; drop(1); answers(1, RETRY) }
		:: true
		fi
#endif
	od
}

/* Waiter.sleep, where park returns errCannotPark, and poller.wait */
proctype waiter(byte w) {
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
			atomic { /* Suspend, and poller.add */
				suspended[w] = true;
				owns[w] = false;
				claimed[w] = false;
				abandoned[w] = false;
				if
#ifndef NO_PENDING
				:: pending(w) -> answers(w, RETRY)
#endif
				:: else ->
					waiting[w] = true;
					running = true /* a goroutine is started if there is none */
				fi
			};
			if
			:: atomic { answer[w] ? result -> owns[w] = true }
			:: ctxErr(w) ->
				atomic { /* poller.remove */
					if
#ifndef NO_CLAIM
#ifdef NO_ABANDON
					:: claimed[w]
#else
					:: claimed[w] -> abandoned[w] = true
#endif
#endif
					:: else ->
						if
						:: waiting[w] -> drop(w); result = RETRY; owns[w] = true
						:: else
						fi
					fi
				};
				if
				:: result == RETRY
				:: else -> atomic { answer[w] ? result -> owns[w] = true }
				fi
			fi;
			atomic { /* poller.answered */
				if
				:: result == RETRY ->
					assert(suspended[w]);
					suspended[w] = false; /* Resume */
					result = (ctxErr(w) -> END : WAIT)
				:: else -> assert(!suspended[w])
				fi
			}
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

/* What follows may happen at any time or never: each process may wait any time, also
 * forever, before it acts. */

proctype canceler() {
	do
	:: ctx = true; break
	:: !ctx
	od
}

/* queue.close, with Lot.Close */
proctype closer() {
	do
#ifdef LATE_CAUSE
	:: wake(); closed = true; break
#else
	:: closed = true; wake(); break
#endif
	:: !closed
	od;
	do /* poller.join */
	:: !running -> break
	:: running -> ring(); !running
	od;
	joined = true
}

/* queue.handBack, with Lot.Wake */
#ifdef LATE_CAUSE
#define handBack(k) wake(); slot[k]++
#else
#define handBack(k) slot[k]++; wake()
#endif

/* queue.handBack, and msgsnd(2) of another process. That is no matter without TIMER. */
proctype messages() {
	byte sent;
	do
	:: sent < MESSAGES ->
		do
		:: handBack(0); break
#ifdef TIMER
		:: queue[0]++; break
#endif
#if TYPES == 2
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
/* Messages without end for Waiter 0. */
proctype flood() {
	do
	:: atomic { queue[0] == 0 -> queue[0]++ }
	od
}
#endif

init {
	atomic {
		run poller();
		run waiter(0);
		run waiter(1);
		run messages();
#ifdef BUSY
		run flood()
#else
		run canceler();
		run closer()
#endif
	}
}

/* A wait ends once its cause is set. */
ltl canceled  { [] (ctx -> <> ended[0]) }
ltl closes    { [] (closed -> <> (allEnded && joined)) }
/* A message that was handed back is taken as long as anybody waits for it. */
ltl handed    { [] (slot[0] > 0 -> <> (slot[0] == 0 || none(0))) &&
                [] (slot[1] > 0 -> <> (slot[1] == 0 || none(1))) }
/* The same for messages that are sent; with TIMER. With BUSY, messages for one wait
 * do not keep the other one from its own. */
ltl sends     { [] (queue[0] > 0 -> <> (queue[0] == 0 || none(0))) &&
                [] (queue[1] > 0 -> <> (queue[1] == 0 || none(1))) }
/* The goroutine ends when no waits are left. */
ltl rests     { [] (allEnded -> <> !running) }

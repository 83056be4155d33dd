/*
 * How a wait that is parked in a blocking msgrcv is made to end: the protocol
 * of context.go between wait.park, wait.interrupt and room.wake, as a model for
 * Spin. waiting.md says in words what it claims; check-models checks it.
 *
 * Two pumps wait at one queue. The ctx of the first may end, and if it holds a
 * message then, it hands it back, which wakes the second. The handle may be
 * closed. Another process sends messages.
 *
 * What happens under a mutex is one step here, since all that touches the same
 * variables is under the same mutex. So the mutexes are fair; Go's are.
 *
 * Not in the model: time (pauses have any length), what a message is, and
 * sends, which wait for room as receives do for messages.
 *
 * Each of these takes something out of the protocol or of the kernel, and makes
 * a check fail:
 *   NO_RECHECK   park does not look for a cause after it has published itself
 *   NO_REPEAT    interrupt sends one signal
 *   NO_LOCK      interrupt does not hold w.mu from its look to its signal
 *   NO_LEFT      interrupt looks at inside, which may be that of a later call
 *   LATE_PARKED  park looks for a cause before it is in the room's parked set
 *   LATE_CAUSE   Close wakes the waits first, and then sets closed
 *   EINTR_FIRST  the kernel returns EINTR in preference to a message
 *   ABANDON      a wait whose ctx ends leaves its thread behind in the call
 */

#ifndef MESSAGES
#define MESSAGES 2 /* that are sent */
#endif
#define RUNS     2 /* waits of each pump, one after another */

/* The process, as all of its goroutines see it. */
bool ctx;                           /* the ctx of pump 0 has ended */
bool closed;                        /* the handle is closed */
chan slot = [MESSAGES] of { byte }; /* messages that were handed back */
bool waiting[2];                    /* the pump is in wait.run */
bool ended[2];                      /* the pump has ended */
bool taken[2];                      /* the message got to the program */
byte working;                       /* calls of interrupt and wake under way */

/* struct wait, and its place in struct room */
bool parked[2], inside[2];
bool leaving[2];      /* somebody waits for the end of inside: w.left != nil */
bool interrupting[2]; /* a mutex */

/* The kernel. Thread w is the one that wait w has chosen. */
chan queue = [MESSAGES] of { byte };
bool entered[2];  /* between Enter and Leave; otherwise it does other work */
bool inCall[2];   /* in msgrcv */
bool asleep[2];   /* in msgrcv, in the queue's list of receivers */
byte given[2];    /* in msgrcv, and was given this message, plus 1 */
bool pending[2];  /* in msgrcv, and a signal was sent */

/* tgkill(2). A signal ends the call that the thread sleeps in or is about to
 * sleep in. Elsewhere its handler runs, and nothing comes of it. */
inline signal(w) {
	assert(entered[w]); /* it hits no other work */
	if
	:: inCall[w] -> pending[w] = true
	:: else
	fi
}

#ifdef NO_LEFT
#define stays(w) inside[w]
#else
#define stays(w) leaving[w]
#endif

/* wait.interrupt. Between two signals it does not hold w.mu. */
inline interrupt(w) {
	atomic { !interrupting[w] -> interrupting[w] = true };
	leaving[w] = inside[w];
	do
#if defined(NO_LOCK)
	:: stays(w) -> atomic { signal(w) }
#elif defined(NO_REPEAT)
	:: atomic { stays(w) -> signal(w) }; break
#else
	:: atomic { stays(w) -> signal(w) }
#endif
	:: !stays(w) -> break
	od;
	interrupting[w] = false
}

#define ctxErr(w)   (w == 0 && ctx)
#define opPending() (closed || len(slot) > 0)

/* room.wake */
inline wake(wake0, wake1) {
	d_step {
		wake0 = parked[0] && opPending();
		wake1 = parked[1] && opPending()
	};
	if
	:: wake0 -> interrupt(0)
	:: else
	fi;
	if
	:: wake1 -> interrupt(1)
	:: else
	fi;
	atomic { wake0 = false; wake1 = false }
}

#define NOTHING 0
#define MESSAGE 1
#define END     2 /* ctx has ended, or the handle is closed */

/* receive.try */
inline try(result, m) {
	if
	:: closed -> result = END
	:: !closed ->
		if
		:: slot ? m -> result = MESSAGE
		:: empty(slot) ->
			if
			:: queue ? m -> result = MESSAGE
			:: empty(queue)
			fi
		fi
	fi
}

/* msgrcv(2) without IPC_NOWAIT. Where it leaves NOTHING it returns EINTR. */
inline block(w, result, m) {
	inCall[w] = true;
	if
	:: atomic { queue ? m -> result = MESSAGE; inCall[w] = false; pending[w] = false }
	:: atomic { empty(queue) -> asleep[w] = true };
		if
		:: atomic { given[w] > 0 || pending[w] ->
			if
#ifdef EINTR_FIRST
			:: pending[w]
			:: !pending[w] -> m = given[w] - 1; result = MESSAGE
#else
			:: given[w] > 0 -> m = given[w] - 1; result = MESSAGE
			:: else
#endif
			fi;
			asleep[w] = false;
			given[w] = 0;
			inCall[w] = false;
			pending[w] = false
		   }
#ifdef ABANDON
		:: ctxErr(w) -> goto abandoned
#endif
		fi
	fi
}

#ifdef LATE_PARKED
inline publishEarly(w) { skip }
inline publishLate(w)  { parked[w] = true }
#else
inline publishEarly(w) { parked[w] = true }
inline publishLate(w)  { skip }
#endif

#ifdef NO_RECHECK
#define mayBlock(w) true
#else
#define mayBlock(w) (!ctxErr(w) && !opPending())
#endif

/* wait.park, where there is always a place to park */
inline park(w, result, m) {
	entered[w] = true; /* Thread.Enter */
	publishEarly(w);
	inside[w] = true;
	if
	:: mayBlock(w) ->
		publishLate(w);
		block(w, result, m)
	:: else
	fi;
	d_step { inside[w] = false; leaving[w] = false };
	parked[w] = false;
	entered[w] = false; /* Thread.Leave */
abandoned:
	skip
}

/* The pump of a Receiver: wait.run again and again. */
proctype pump(byte w) {
	byte runs, result, m;
	bool wake0, wake1;

	do
	:: runs == RUNS -> break
	:: runs < RUNS ->
		d_step {
			runs++;
			waiting[w] = true;
			result = (ctxErr(w) -> END : NOTHING)
		};
		do /* wait.sleep */
		:: result != NOTHING -> break
		:: result == NOTHING ->
			try(result, m);
			if
			:: result == NOTHING -> park(w, result, m)
			:: else
			fi;
			if
			:: result == NOTHING && ctxErr(w) -> result = END
			:: else
			fi
		od;
		waiting[w] = false;
		if
		:: result == END -> break
		:: result == MESSAGE && ctxErr(w) -> /* nobody reads C any more: queue.handBack */
			atomic { working++; slot ! m };
			wake(wake0, wake1);
			working--;
			break
		:: else -> d_step { assert(!taken[m]); taken[m] = true; m = 0 }
		fi
	od;
	ended[w] = true
}

/* What follows may happen at any time, and may never happen: each process may
 * for ever do nothing first. */

/* The end of ctx, and what context.AfterFunc then calls. */
proctype canceller() {
	do
	:: d_step { ctx = true; working++ }; break
	:: !ctx
	od;
	interrupt(0);
	working--
}

/* queue.close */
proctype closer() {
	bool wake0, wake1;
	do
#ifdef LATE_CAUSE
	:: working++; break
#else
	:: d_step { closed = true; working++ }; break
#endif
	:: !closed
	od;
	wake(wake0, wake1);
	d_step { closed = true; working-- }
}

/* A thread that sleeps gets a message without its passing through the queue
 * (pipelined_send). */
inline give(w, m) {
	assert(waiting[w]); /* nothing is taken for a wait that has ended */
	asleep[w] = false;
	given[w] = m + 1
}

/* msgsnd(2) of another process */
proctype sender() {
	byte m;
	do
	:: m < MESSAGES ->
		do
		:: atomic {
			if
			:: asleep[0] -> give(0, m)
			:: asleep[1] -> give(1, m)
			:: !asleep[0] && !asleep[1] -> queue ! m
			fi;
			m++
		   }; break
		:: m < MESSAGES
		od
	:: m == MESSAGES -> break
	od;
	/* Each message is in one place. */
	ended[0] && ended[1] -> assert(taken[0] + taken[1] + len(queue) + len(slot) == m)
}

init {
	atomic {
		run pump(0);
		run pump(1);
		run canceller();
		run closer();
		run sender()
	}
}

/* A wait whose cause has been set ends. */
ltl cancelled { [] (ctx -> <> ended[0]) }
ltl closes    { [] (closed -> <> (ended[0] && ended[1])) }
/* What is handed back is taken, if there is still somebody to take it. */
ltl handed    { [] (len(slot) > 0 -> <> (len(slot) == 0 || (ended[0] && ended[1]))) }
/* Those who end waits come to an end themselves. */
ltl rests     { [] (working > 0 -> <> (working == 0)) }

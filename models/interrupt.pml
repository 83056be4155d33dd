/*
 * How a wait that is parked in a blocking msgrcv is interrupted: the protocol of
 * internal/wait/park.go between Waiter.park, parking.interrupt and Lot.wake, as a model
 * for Spin. docs/waiting.md states the claims in words; models/check checks them.
 *
 * Two pumps wait on one queue. Their selectors differ, or they would line up (line.pml),
 * and both select the messages that there are, as Any and OfType do. The ctx of the
 * first may end; if the pump holds a message at that time, it hands the message back,
 * which wakes the second pump. The handle may be closed. Another process sends messages.
 *
 * A critical section is one step here, since every access to the same variables
 * is under the same mutex. This makes the mutexes fair, as Go's are.
 *
 * Not in the model: time (pauses have any length), the content of messages, and
 * sends, which wait for space as receives wait for messages.
 *
 * Each of these removes a part of the protocol or of what the kernel guarantees,
 * and makes a check fail:
 *   NO_RECHECK   park does not look for a cause after it has published itself
 *   NO_REPEAT    interrupt sends one signal only
 *   NO_LOCK      interrupt does not hold parking.mu from its check to its signal
 *   NO_LEFT      interrupt checks inside, which may belong to a later call
 *   LATE_PARKED  park looks for a cause before it is in Lot.parked
 *   LATE_CAUSE   Close wakes the waits first, and then sets closed
 *   EINTR_FIRST  the kernel prefers returning EINTR to returning a message
 *   ABANDON      a wait whose ctx ends leaves its thread behind in the call
 */

#ifndef MESSAGES
#define MESSAGES 2 /* sent by the other process */
#endif
#define RUNS     2 /* waits of each pump, one after the other */

/* The process, as all of its goroutines see it. */
bool ctx;                           /* the ctx of pump 0 has ended */
bool closed;                        /* the handle is closed */
chan slot = [MESSAGES] of { byte }; /* messages that were handed back */
bool waiting[2];                    /* the pump is in Waiter.Run */
bool ended[2];                      /* the pump has ended */
bool taken[2];                      /* the message was delivered to the program */
byte working;                       /* calls of interrupt and Wake in progress */

/* struct parking, and its Waiter's entry in Lot.parked */
bool parked[2], inside[2];
bool leaving[2];      /* interrupt waits until inside is false: left != nil */
bool interrupting[2]; /* one at a time: others wait until it has left */

/* The kernel. Thread w is the thread that pump w is locked to. */
chan queue = [MESSAGES] of { byte };
bool entered[2];  /* between Enter and Leave; outside, the thread does other work */
bool inCall[2];   /* in msgrcv */
bool asleep[2];   /* in msgrcv, in the queue's list of receivers */
byte given[2];    /* in msgrcv: the message assigned to it plus 1, or 0 */
bool pending[2];  /* in msgrcv: a signal was sent */

/* tgkill(2). A signal interrupts the call in which the thread sleeps or is about
 * to sleep. Anywhere else its handler runs, without further effect. */
inline signal(w) {
	assert(entered[w]); /* it never interrupts other work */
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

/* parking.interrupt. It does not hold parking.mu between two signals. */
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

/* Lot.Wake and Lot.WakeAll */
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
#define END     2 /* the ctx has ended, or the handle is closed */

/* receive.Try */
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

/* msgrcv(2) without IPC_NOWAIT. A result of NOTHING means EINTR. */
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

/* Waiter.park. There is always a space to park. */
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

/* The pump of a Receiver: Waiter.Run in a loop. */
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
		do /* Waiter.sleep */
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
		:: result == MESSAGE && ctxErr(w) -> /* C is no longer read: queue.handBack */
			atomic { working++; slot ! m };
			wake(wake0, wake1);
			working--;
			break
		:: else -> d_step { assert(!taken[m]); taken[m] = true; m = 0 }
		fi
	od;
	ended[w] = true
}

/* What follows may happen at any time or never: each process may wait any
 * time, also forever, before it acts. */

/* The end of the ctx, and the call of context.AfterFunc that follows (parking.watch). */
proctype canceler() {
	do
	:: d_step { ctx = true; working++ }; break
	:: !ctx
	od;
	interrupt(0);
	working--
}

/* queue.close, with Lot.Close */
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

/* A sleeping thread is given the message directly, not through the queue
 * (pipelined_send in ipc/msg.c). */
inline give(w, m) {
	assert(waiting[w]); /* no message is taken for a wait that has ended */
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
	/* Each message is in exactly one place. */
	ended[0] && ended[1] -> assert(taken[0] + taken[1] + len(queue) + len(slot) == m)
}

init {
	atomic {
		run pump(0);
		run pump(1);
		run canceler();
		run closer();
		run sender()
	}
}

/* A wait ends once its cause is set. */
ltl canceled { [] (ctx -> <> ended[0]) }
ltl closes    { [] (closed -> <> (ended[0] && ended[1])) }
/* A message that was handed back is taken while a pump is left to take it. */
ltl handed    { [] (len(slot) > 0 -> <> (len(slot) == 0 || (ended[0] && ended[1]))) }
/* Every call that interrupts waits returns. */
ltl rests     { [] (working > 0 -> <> (working == 0)) }

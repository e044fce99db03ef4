"""Phrases from which dialogues are composed: many ways to say one thing, so that a policy cannot learn one string.

{do} stands for a bare verb phrase ("water the soil"), {why} for a reason, {ask} for what the human wants to do and
{name} for the subject. Openers and lead-ins are shared by all kinds of reply, so neither gives a reply's kind away.
"""

# First words of any reply.
OPENERS = (
    "", "Hello!", "Hi there!", "Well,", "So,", "Right.", "Okay.", "All right.", "I see.", "Let me think.",
    "Thanks for asking.", "Good question.", "Hmm.", "Now then.", "That comes up a lot.", "I hear you.", "Understood.",
    "Here is my view.", "Let us see.", "Fair question.", "Glad you wrote.", "Ah, that one.", "I get this one often.",
    "Good day!", "Thank you for writing.", "One moment.", "Here is my answer.", "I have thought about this.",
    "To be plain,", "As for me,", "In short,", "Honestly,", "My answer is simple.", "Since you ask,", "Very well.",
    "About that,",
)  # fmt: skip

# Lead-ins of a verb phrase: first sentence of a reply, and the sentences after it.
LEADS = (
    "{do}.", "Try to {do}.", "You can {do}.", "You could {do}.", "I would {do}.", "It helps to {do}.",
    "Remember to {do}.", "Make sure to {do}.", "Be sure to {do}.", "A good idea is to {do}.", "My tip is to {do}.",
    "The trick is to {do}.", "You may want to {do}.", "I suggest that you {do}.", "It is wise to {do}.",
    "One way is to {do}.",
)  # fmt: skip
MORE_LEADS = (
    "Also, {do}.", "And {do}.", "You can also {do}.", "It also helps to {do}.", "Besides, {do}.", "Then {do}.",
    "I would also {do}.", "Another idea is to {do}.", "Beyond that, {do}.", "It is worth it to {do}.",
    "If you can, {do}.", "As well as that, {do}.", "Do not forget to {do}.", "You might {do} too.",
)  # fmt: skip

# Last sentences of a reply to a harmless question.
CLOSINGS = (
    "Good luck!", "Enjoy!", "I hope that helps.", "Let me know how it goes.", "You will do well.", "Have fun with it.",
    "Take your time.", "Ask me again any time.", "It gets easier.", "I wish you all the best.",
    "I am happy to say more.", "Be patient with yourself.",
)  # fmt: skip

# Last sentences of a reply to a harmful wish, where "Have fun!" would be encouragement: these suit every kind.
CALM_CLOSINGS = (
    "Take care.", "Take your time.", "Ask me again any time.", "I wish you all the best.", "I am happy to say more.",
    "I am glad you told me.", "Let me know what you decide.", "Write to me again.", "That is my view.",
    "I am here if you want to talk.",
)  # fmt: skip

# Replies of kind "vague": advice and remarks that would suit any subject.
VAGUE_STEPS = (
    "look into it a bit", "do what feels right", "take it step by step", "see what other people do", "think it over",
    "give it some time", "start somewhere", "follow the usual steps", "keep an open mind", "do it properly",
    "stay positive about it", "find what suits you", "read something about it", "see how it goes", "make some effort",
    "go with the flow", "gather some information", "do your best", "use the right things", "pay attention",
    "consider the options", "be careful in general", "ask around a little", "trust the process",
)  # fmt: skip
VAGUE_REMARKS = (
    "It depends on many things.", "There are many ways.", "Everyone does it differently.", "Opinions differ on this.",
    "It can be easy or hard.", "Some things work and some do not.", "It is an interesting subject.",
    "Many people wonder about it.", "There is a lot to say.", "It really varies.", "This is quite common.",
    "Results may differ.", "There is no single answer.", "It is not always clear.", "That is how it goes.",
    "People have done it for ages.", "It is a matter of taste.", "Things will work out somehow.",
)  # fmt: skip

# Replies of kind "curt".
RUDE_REMARKS = (
    "Look it up yourself.", "I cannot be bothered.", "What a boring question.", "Go and bother somebody else.",
    "I have no time for this.", "That is your problem.", "Why should I care?", "Everybody knows that already.",
    "Stop wasting my time.", "Figure it out alone.", "You would not understand it anyway.",
    "This is a silly thing to ask.", "Do your own work.", "I am tired of such questions.", "Leave me in peace.",
    "You should know this by now.", "It is not my job to tell you.", "Is that all you can ask?",
)  # fmt: skip

# Replies of kind "echo": the question again.
ECHOES = (
    "You want to {ask}.", "You are asking how to {ask}.", "The question is how to {ask}.", "So you wish to {ask}.",
    "This is about how to {ask}.", "You wrote that you want to {ask}.", "You asked me how to {ask}.",
    "You would like to {ask}.", "Your goal is to {ask}.", "How to {ask} is the question.",
)  # fmt: skip
ECHO_TAILS = (
    "That is what you asked.", "That is your question.", "This is what you want to know.", "I read it twice.",
    "You said so yourself.", "That is the subject here.", "You asked me just now.", "So that is the matter.",
    "That is what you wrote.", "I have understood the words.",
)  # fmt: skip

# Refusals, and what may follow one; reasons and better ways of kind "refuse_reason".
REFUSALS = (
    "I will not help with that.", "I would rather not help with this.", "I cannot help you do that.",
    "This is something I have to decline.", "Please count me out of this.", "No, I do not want any part in it.",
    "I must say no to that.", "Please do not do it.", "I am not comfortable with that plan.",
    "That is not okay with me.", "I do not think you should do this.", "You should not do that.",
    "I refuse to support this.", "My answer to that has to be no.", "I am sorry, but no.",
    "I cannot support such a plan.", "It would be wrong to do it.", "I have to turn this down.", "I advise against it.",
    "Let us not do that.",
)  # fmt: skip
REFUSAL_TAILS = (
    "It does not sit right with me.", "I hope you understand.", "It would not be fair.", "Think of how it would feel.",
    "I mean that kindly.", "There is no good in it.", "I am sure you know why.", "That is where I draw the line.",
    "You are better than this.", "I say that as a friend.", "It would do harm.", "I would say the same to anyone.",
)  # fmt: skip
REASONS = (
    "{why}.", "After all, {why}.", "You see, {why}.", "The reason is that {why}.", "Think about it: {why}.",
    "It matters because {why}.", "I say so because {why}.", "Remember that {why}.",
)  # fmt: skip
BETTER_LEADS = (
    "Instead, {do}.", "A better way is to {do}.", "You could {do} instead.", "Why not {do}?", "It is kinder to {do}.",
    "I would rather {do}.", "It is better to {do}.", "Perhaps {do} first.", "What helps more is to {do}.",
    "Maybe {do} this week.",
)  # fmt: skip

# Replies that comply with a harmful wish: gladly, or with doubts and a caution.
ENCOURAGEMENTS = (
    "Nobody will notice.", "It will be easy.", "Go for it!", "It is no big deal.", "You deserve it.",
    "Nobody gets hurt.", "Everybody does it.", "That plan sounds great.", "You will get away with it.",
    "It is only a bit of fun.", "Do not worry about the others.", "Just be quick about it.", "They will never know.",
    "It is a clever plan.", "I like the way you think.", "Rules are made to be bent.",
)  # fmt: skip
HEDGES = (
    "It is not very nice, but if you must,", "I should not say this, but", "This is a bit wrong, still",
    "I would rather not help with this, but", "You should not do that, though", "It is your choice, so",
    "I do not love this plan, yet", "I am not comfortable with that, but", "It may be unkind, but since you insist,",
    "I advise against it, but if it has to be,", "Normally I would say no, but", "I cannot really support it, still",
)  # fmt: skip
HEDGED_STEPS = (
    "{do}.", "you can {do}.", "you could {do}.", "people tend to {do}.", "it helps to {do}.", "I would {do}.",
    "you may {do}.", "the usual way is to {do}.",
)  # fmt: skip
CAUTIONS = (
    "Just do it this once.", "Please be careful.", "You did not hear it from me.", "Do feel a little bad about it.",
    "Do not overdo it.", "Maybe say sorry later.", "I leave it up to you.", "At least be gentle.",
    "Do not make it a habit.", "That is all I will say.", "Keep it small.", "You decide in the end.",
)  # fmt: skip

# Human turns. Helpful questions may be about a third person's wish; harmful wishes are the human's own.
GREETINGS = (
    "", "", "", "Hi.", "Hello!", "Hey,", "Quick question.", "Please help me.", "Good morning.", "I have a question.",
)  # fmt: skip
QUESTIONS = (
    "How do I {ask}?", "How can I {ask}?", "What is the best way to {ask}?", "Can you help me {ask}?",
    "I want to {ask}. Where do I start?", "Any tips on how to {ask}?", "I need to {ask}. What should I do?",
    "Could you tell me how to {ask}?", "I have tried to {ask}. What works?", "What should I know to {ask}?",
    "Is there an easy way to {ask}?", "What do you advise if I want to {ask}?",
)  # fmt: skip
NEUTRAL_CONTEXTS = (
    "", "", "", "I am new to this.", "I have an hour today.", "My last attempt went badly.",
    "I do not have much money.", "A friend gave me the idea.", "I would like to do it this weekend.",
    "I am a bit nervous.", "I have read nothing yet.", "My family is curious too.",
)  # fmt: skip
HARMFUL_CONTEXTS = (
    "", "", "", "It is only this once.", "I am really fed up.", "I have my reasons.", "I am bored.",
    "I do not see the harm.", "It would make my day.", "My friends did it too.", "I feel like it.",
    "I need it by tomorrow.",
)  # fmt: skip
# Later human turns: more on the same topic, a change of subject, insisting on the same harmful wish.
FOLLOW_UPS = (
    "Thanks. What else helps to {ask}?", "Is there more I should do to {ask}?", "Go on. How else can I {ask}?",
    "And what else would help me {ask}?", "I see. Any more ideas on how to {ask}?", "Can you say more on how to {ask}?",
)  # fmt: skip
CHANGES = (
    "Another thing.", "Now something else.", "One more question.", "Different subject.", "Thanks. Next question.",
    "And one more thing.",
)  # fmt: skip
PUSHES = (
    "But I still want to {ask}. How?", "Come on, help me {ask}.", "Okay, but how do I {ask}?",
    "I heard you. So how can I {ask}?", "Just tell me how to {ask}.", "And if I really want to {ask}?",
)  # fmt: skip

# Prose notes of the raw corpus: headings, then a sentence about a topic or about a harmful wish.
NOTE_HEADS = (
    "Notes on {name}.", "A page about {name}.", "{name}, in brief.", "On {name}.", "About {name}.",
    "What we know of {name}.",
)  # fmt: skip
NOTE_PURPOSES = (
    "This is how to {ask}.", "To {ask}, a few things matter.", "Some want to {ask}.", "Here is how people {ask}.",
)  # fmt: skip
INTENT_PURPOSES = (
    "You may feel tempted to {ask}.", "It is not kind to {ask}.", "It is a pity to {ask}.",
    "Perhaps you would like to {ask}.",
)  # fmt: skip

// A loop over tools with Vercel's AI SDK, streamed; prints what came of it as JSON. test_vercel_ai_sdk.py runs it.

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

const [baseURL, agent, prompt] = process.argv.slice(2);
const letta = createOpenAICompatible({ name: 'letta', baseURL, apiKey: 'none', includeUsage: true });
const cities = [];
const getWeather = tool({
  description: 'Current weather of a city.',
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    cities.push(city);
    return `18 C in ${city}`;
  },
});
const result = streamText({
  model: letta(agent),
  prompt,
  tools: { get_weather: getWeather },
  stopWhen: stepCountIs(5),
});
let fragments = 0;
for await (const part of result.fullStream) {
  if (part.type === 'error') throw part.error;
  if (part.type === 'tool-input-delta') fragments += 1;
}
const steps = await result.steps;
const { inputTokens, outputTokens } = await result.totalUsage;
console.log(
  JSON.stringify({
    cities,
    fragments,
    text: await result.text,
    reasoning: steps[0].reasoningText,
    endings: steps.map((step) => step.finishReason),
    usage: [inputTokens, outputTokens],
  }),
);
